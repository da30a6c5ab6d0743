import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

import { t, useLanguage } from "./i18n";
import { align } from "./metrics";
import { short } from "./numbers";

export interface Series {
  name: string;
  x: number[];
  y: number[];
}

const HEIGHT = 200;

/** A metric's curves, one a run. The last values are in words below, for who cannot see the curves. */
export function Chart(props: { title: string; series: Series[]; xLabel: string; logScale: boolean }) {
  useLanguage();
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const drawn = props.series.filter((one) => one.x.length > 0);
  const names = drawn.map((one) => one.name).join("\n");
  const shape = `${names}|${String(props.logScale)}`;
  const places = drawn.map((one) => props.series.indexOf(one));

  useEffect(() => {
    const element = box.current;
    if (element === null || drawn.length === 0) return;
    const style = getComputedStyle(element);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const axis: uPlot.Axis = {
      stroke: colour("--muted"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 },
      font: "12px system-ui",
    };
    const made = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { points: { size: 6 } },
        scales: { x: { time: false }, y: props.logScale ? { distr: 3 } : {} },
        axes: [{ ...axis, size: 32 }, { ...axis, size: 64, values: (_, ticks) => ticks.map((value) => (value === null ? "" : short(value))) }],
        series: [
          {},
          ...drawn.map((one, at) => ({
            label: one.name,
            stroke: colour(`--series-${String((places[at] ?? 0) % 8)}`),
            width: 2,
            spanGaps: true,
            points: { show: one.x.length < 40, size: 5 },
          })),
        ],
      },
      align(drawn) as uPlot.AlignedData,
      element,
    );
    plot.current = made;
    const resize = new ResizeObserver(() => {
      if (element.clientWidth > 0) made.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    resize.observe(element);
    return () => {
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    if (drawn.length > 0) plot.current?.setData(align(drawn) as uPlot.AlignedData);
  }, [props.series]);

  const count = drawn.reduce((sum, one) => sum + one.x.length, 0);
  return (
    <figure class="chart" data-metric={props.title} data-points={count}>
      <figcaption>
        <strong>{props.title}</strong> <span class="small muted">{t("points", { n: count })}</span>
      </figcaption>
      <div ref={box} aria-hidden="true" />
      <ul class="small last-values">
        {drawn.map((one, at) => (
          <li key={one.name}>
            <span class={`swatch series-${String((places[at] ?? 0) % 8)}`} aria-hidden="true" />
            {drawn.length > 1 && <span class="muted">{one.name} </span>}
            {t("lastValue")} {short(one.y.at(-1) ?? NaN)}
          </li>
        ))}
      </ul>
    </figure>
  );
}
