/** How surprising a token was: 0 (probability above 1/2) to 4 (below 1/100). As in export.py. */
export function level(logProb: number | null): number {
  const probability = logProb === null ? 1 : Math.exp(logProb);
  return [0.5, 0.2, 0.05, 0.01].filter((bound) => probability < bound).length;
}

/** A probability as a percentage with three digits that count. */
export function percent(probability: number): string {
  const value = probability * 100;
  if (value === 0) return "0%";
  if (value < 0.001) return "<0.001%";
  if (value > 99.95 && value < 100) return ">99.9%";
  return `${value >= 10 ? value.toFixed(1) : value >= 1 ? value.toFixed(2) : value.toPrecision(2)}%`;
}

/** A number of a few digits: 12,345, 1.234, 0.00123. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 0 : 1)}M`;
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size >= 1 || size === 0) return String(Number(value.toPrecision(4)));
  return size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

/** Bytes as people read them. */
export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${place === 0 ? String(value) : value.toFixed(1)} ${units[place] ?? ""}`;
}

/** A token's name with its spaces and line breaks made visible. */
export function visible(name: string): string {
  if (name === "") return "∅";
  return name.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}
