// Numbers for `Math.random`: the engine's own generator is in the snapshot, so it would say the same in every call.

// A generator of numbers in [0, 1), begun with `text` and two numbers: 53 bits of two steps of sfc32 (PractRand).
export function seeded(text, first, second) {
  let [a, b, c, counter] = [hash(text), first | 0, second | 0, 1];
  const step = () => {
    const sum = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return sum >>> 0;
  };
  // The first numbers still show the seed.
  for (let warm = 0; warm < 12; warm++) step();
  return function random() {
    return ((step() >>> 5) * 0x4000000 + (step() >>> 6)) / 2 ** 53;
  };
}

// FNV-1a.
function hash(text) {
  let state = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) state = Math.imul(state ^ text.charCodeAt(at), 0x01000193);
  return state | 0;
}
