import type { MetricRecord } from "./types";

export type Axis = "step" | "tokens" | "seconds";

const FIRST = ["loss", "heldout_loss", "excess", "reward", "grad_norm", "lr", "tokens_per_second"];
const LEFT_OUT = new Set(["step", "tokens", "seconds", "data_seconds", "heldout_loss_error"]);

/** The figures of which curves are drawn, the ones that matter first. */
export function chartsOf(records: MetricRecord[]): string[] {
  const found = new Set<string>();
  for (const record of records) {
    for (const [key, value] of Object.entries(record)) {
      if (typeof value === "number" && !LEFT_OUT.has(key) && !key.endsWith("_error")) found.add(key);
    }
  }
  const rank = (key: string) => {
    const place = FIRST.findIndex((name) => key === name || (name === "excess" && key.includes(name)));
    return place < 0 ? FIRST.length : place;
  };
  return [...found].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/** A record's place on the axis; an evaluation has its step alone, so it takes the nearest line's. */
export function xOf(record: MetricRecord, axis: Axis, all: MetricRecord[]): number | null {
  if (axis === "step") return record.step;
  const own = record[axis];
  if (typeof own === "number") return own;
  if (record.step === 0) return 0;
  const line = all.find((one) => one.step === record.step && typeof one[axis] === "number");
  const value = line?.[axis];
  return typeof value === "number" ? value : null;
}

/** Exponential moving average without bias towards 0 at its beginning; 0 leaves all as it is. */
export function smooth(values: number[], weight: number): number[] {
  if (weight <= 0) return values;
  let sum = 0;
  let weights = 0;
  return values.map((value) => {
    sum = weight * sum + value;
    weights = weight * weights + 1;
    return sum / weights;
  });
}

/** Several curves over one axis: every x that any has, and each one's value there or null. */
export function align(curves: { x: number[]; y: number[] }[]): (number | null)[][] {
  const places = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  return [
    places,
    ...curves.map((curve) => {
      const values = new Map(curve.x.map((x, at) => [x, curve.y[at] ?? null]));
      return places.map((x) => values.get(x) ?? null);
    }),
  ];
}
