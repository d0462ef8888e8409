/** localStorage that never throws: it may be full, forbidden or hold old shapes. */
export function load<T>(key: string, fallback: T): T {
  try {
    const text = localStorage.getItem(`fleetcore.${key}`);
    return text === null ? fallback : (JSON.parse(text) as T);
  } catch {
    return fallback;
  }
}

export function store(key: string, value: unknown): void {
  try {
    localStorage.setItem(`fleetcore.${key}`, JSON.stringify(value));
  } catch {
    // Only a convenience is lost.
  }
}
