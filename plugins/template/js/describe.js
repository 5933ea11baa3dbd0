// What there is to say about a list of numbers. Knows nothing of plugins, so Node can test it.

// `null` where there are no numbers.
export function describe(numbers) {
  if (numbers.length === 0) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  const count = sorted.length;
  return {
    count,
    mean: sorted.reduce((sum, number) => sum + number, 0) / count,
    median: (sorted[Math.floor((count - 1) / 2)] + sorted[Math.floor(count / 2)]) / 2,
    least: sorted[0],
    most: sorted[count - 1],
  };
}

export function text({ count, mean, median, least, most }) {
  return `${count} numbers: mean ${mean}, median ${median}, least ${least}, most ${most}`;
}
