// What a program prints: bounded, in order, and visible while it still runs.
//
// It keeps the beginning and the end of what was printed, so memory is bounded whatever the program prints, and it
// copies the beginning to `emit` at once: when the host kills the call, what was emitted is all that is left of it.
//
// Invariant: the text it gives back has at most `maxBytes` bytes of UTF-8 and a mark, and always encodes.

// The host keeps 16 KiB of what a call emits; copying more would only cost time.
export const MAX_EMITTED_BYTES = 16 * 1024;
// An unfinished line is emitted when it grows to this, so that a progress line of dots is seen too.
const EMIT_AT_BYTES = 512;
// Small prints are joined to pieces of at least this, so that a million one-byte prints stay a short queue.
const MIN_PIECE_BYTES = 1024;

export class Recorder {
  #head = "";
  #headRoom = 0;
  #tail = [];
  #tailBytes = 0;
  #tailLimit = 0;
  #droppedBytes = 0;
  #emit = null;
  #emitRoom = MAX_EMITTED_BYTES;
  #unemitted = "";

  // Keeps at most `maxBytes` from here on. Apart from the constructor, because that is slow and goes into the snapshot.
  begin(maxBytes, emit) {
    this.#head = this.#unemitted = "";
    this.#tail = [];
    this.#tailBytes = this.#droppedBytes = 0;
    this.#emitRoom = MAX_EMITTED_BYTES;
    this.#headRoom = maxBytes - Math.floor(maxBytes / 2);
    this.#tailLimit = Math.floor(maxBytes / 2);
    this.#emit = emit;
  }

  write(text) {
    text = clean(text);
    this.#copyToHost(text);
    let rest = text;
    if (this.#headRoom > 0) {
      const part = firstBytes(text, this.#headRoom);
      this.#head += part;
      // What is left of the room is smaller than one character.
      this.#headRoom = part.length < text.length ? 0 : this.#headRoom - byteLength(part);
      rest = text.slice(part.length);
    }
    if (rest) this.#keepInTail(rest);
  }

  #keepInTail(text) {
    // One print can be larger than all that is kept: its own beginning goes at once.
    const kept = lastBytes(text, this.#tailLimit);
    this.#droppedBytes += byteLength(text.slice(0, text.length - kept.length));
    const bytes = byteLength(kept);
    const last = this.#tail.at(-1);
    if (last && last.bytes < MIN_PIECE_BYTES) {
      last.text += kept;
      last.bytes += bytes;
    } else {
      this.#tail.push({ text: kept, bytes });
    }
    this.#tailBytes += bytes;
    while (this.#tailBytes - this.#tail[0].bytes >= Math.max(this.#tailLimit, 1)) {
      const { bytes: oldest } = this.#tail.shift();
      this.#tailBytes -= oldest;
      this.#droppedBytes += oldest;
    }
  }

  #copyToHost(text) {
    if (this.#emitRoom <= 0) return;
    const part = firstBytes(text, this.#emitRoom);
    this.#unemitted += part;
    this.#emitRoom = part.length < text.length ? 0 : this.#emitRoom - byteLength(part);
    if (part.includes("\n") || this.#unemitted.length >= EMIT_AT_BYTES || this.#emitRoom <= 0) this.emitRest();
  }

  // Emits a last line that has no line end.
  emitRest() {
    const chunk = this.#unemitted;
    this.#unemitted = "";
    if (chunk) this.#emit(chunk);
  }

  get isTruncated() {
    return this.#droppedBytes > 0 || this.#tailBytes > this.#tailLimit;
  }

  // What was printed, with a mark where the middle was left out.
  text() {
    const tail = this.#tail.map((piece) => piece.text).join("");
    const kept = lastBytes(tail, this.#tailLimit);
    const dropped = this.#droppedBytes + byteLength(tail.slice(0, tail.length - kept.length));
    if (!dropped) return this.#head + tail;
    return `${this.#head}\n[... ${dropped} bytes of output left out here ...]\n${kept}`;
  }
}

// `text` with lone surrogates as escapes: one would trap the component when the answer is lifted to the host.
export function clean(text) {
  return text.isWellFormed()
    ? text
    : text.replace(/\p{Surrogate}/gu, (half) => `\\u${half.charCodeAt(0).toString(16)}`);
}

// `text` without its middle if it is longer than `maxBytes`, and whether it was.
export function cutMiddle(text, maxBytes) {
  const bytes = byteLength(text);
  if (bytes <= maxBytes) return [text, false];
  const half = Math.floor(maxBytes / 2);
  const [head, tail] = [firstBytes(text, half), lastBytes(text, half)];
  const left = bytes - byteLength(head) - byteLength(tail);
  return [`${head}\n[... ${left} bytes left out here ...]\n${tail}`, true];
}

// Bytes of well-formed `text` in UTF-8.
export function byteLength(text) {
  if (isAscii(text)) return text.length;
  let bytes = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    // Each half of a pair counts two of the four bytes.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || (unit >= 0xd800 && unit < 0xe000) ? 2 : 3;
  }
  return bytes;
}

// The longest beginning of `text` with at most `limit` bytes.
function firstBytes(text, limit) {
  if (text.length * 3 <= limit) return text;
  const start = text.slice(0, limit);
  if (isAscii(start)) return start;
  let end = start.length;
  while (byteLength(text.slice(0, end)) > limit) end -= Math.ceil((byteLength(text.slice(0, end)) - limit) / 3);
  return isLowHalf(text, end) ? text.slice(0, end - 1) : text.slice(0, end);
}

// The longest end of `text` with at most `limit` bytes.
function lastBytes(text, limit) {
  if (text.length * 3 <= limit) return text;
  let from = Math.max(text.length - limit, 0);
  if (isAscii(text.slice(from))) return text.slice(from);
  while (byteLength(text.slice(from)) > limit) from += Math.ceil((byteLength(text.slice(from)) - limit) / 3);
  return isLowHalf(text, from) ? text.slice(from + 1) : text.slice(from);
}

function isAscii(text) {
  return !/[^\x00-\x7f]/.test(text);
}

// Whether a cut before `at` would part the two halves of a character.
function isLowHalf(text, at) {
  const unit = text.charCodeAt(at);
  return at > 0 && unit >= 0xdc00 && unit < 0xe000;
}
