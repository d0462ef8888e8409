/**
 * Wait before the n-th try (0-based), in milliseconds: full jitter between half
 * and all of an exponential that starts at 0.5 s and stops growing at 15 s, so
 * that many browsers do not come back in the same instant.
 */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(15_000, 500 * 2 ** Math.min(attempt, 10));
  return Math.round(ceiling * (0.5 + random() / 2));
}
