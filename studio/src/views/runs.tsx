import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { api } from "../api";
import { Chart, type Series } from "../chart";
import { t } from "../i18n";
import { chartsOf, smooth, xOf, type Axis } from "../metrics";
import { short } from "../numbers";
import { go, setQuery } from "../router";
import type { MetricRecord, Run, RunDetails } from "../types";

const POLL_MS = 1500;

/** Curves of the chosen runs as they are written, and what else their folders hold. */
export function RunsView({ query }: { query: URLSearchParams }) {
  const [runs, setRuns] = useState<Run[] | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  const asked = query.getAll("run");
  const axis = (query.get("x") ?? "step") as Axis;
  const smoothing = Number(query.get("smooth") ?? 0);
  const logScale = query.get("log") === "1";

  useEffect(() => {
    let timer = 0;
    let gone = false;
    const look = async () => {
      try {
        const found = (await api.runs()).runs;
        if (!gone) {
          setRuns(found);
          setFault(null);
        }
      } catch (error) {
        if (!gone) setFault(error instanceof TypeError ? t("lost") : String((error as Error).message));
      }
      if (!gone) timer = window.setTimeout(() => void look(), 2 * POLL_MS);
    };
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);

  // the newest of those under way, else the first of the list
  const newest =
    runs
      ?.filter((run) => run.status === "running")
      .reduce<Run | null>((best, run) => (best === null || run.changed > best.changed ? run : best), null) ?? runs?.[0];
  const chosen = asked.length > 0 ? asked : newest ? [newest.name] : [];
  // a run that was just started has no metrics yet
  const records = useMetrics(chosen.filter((name) => runs?.some((run) => run.name === name)));
  if (runs === null) return <p class="notice" role="status">{fault ?? "…"}</p>;
  if (runs.length === 0) return <p class="notice">{t("noRuns")}</p>;

  const choose = (name: string, on: boolean) => {
    const next = on ? [...chosen, name] : chosen.filter((one) => one !== name);
    const changed = new URLSearchParams(location.search);
    changed.delete("run");
    for (const one of next.slice(0, 8)) changed.append("run", one);
    go(`/runs?${changed.toString()}`);
  };
  return (
    <div class="runs">
      <fieldset class="run-list">
        <legend>{t("chooseRuns")}</legend>
        <ul>
          {runs.map((run) => {
            const place = chosen.indexOf(run.name);
            return (
              <li key={run.name}>
                <label>
                  <input
                    type="checkbox"
                    checked={place >= 0}
                    onChange={(event) => { choose(run.name, event.currentTarget.checked); }}
                  />
                  <span class={`swatch ${place >= 0 ? `series-${String(place % 8)}` : ""}`} aria-hidden="true" />
                  <span class="run-name">{run.name}</span>
                  <span class={`small status ${run.status}`}>{t(`status_${run.status === "running" ? "running" : run.status}`)}</span>
                  <span class="small muted">
                    {t("step")} {run.step}
                    {run.loss !== null && ` · ${short(run.loss)}`}
                  </span>
                </label>
              </li>
            );
          })}
        </ul>
      </fieldset>
      <div class="run-main">
        {fault !== null && <p class="fault small" role="alert">{fault}</p>}
        <div class="toolbar">
          <label class="inline">
            <span class="small muted">{t("axis")}</span>
            <select value={axis} onChange={(event) => { setQuery({ x: event.currentTarget.value }, true); }}>
              <option value="step">{t("steps")}</option>
              <option value="tokens">{t("tokensAxis")}</option>
              <option value="seconds">{t("seconds")}</option>
            </select>
          </label>
          <label class="inline">
            <span class="small muted">{t("smoothing")}</span>
            <input
              type="range"
              min={0}
              max={0.98}
              step={0.02}
              value={smoothing}
              onInput={(event) => { setQuery({ smooth: event.currentTarget.value }, true); }}
            />
          </label>
          <label class="inline">
            <input
              type="checkbox"
              checked={logScale}
              onChange={(event) => { setQuery({ log: event.currentTarget.checked ? "1" : null }, true); }}
            />
            <span class="small">{t("logScale")}</span>
          </label>
        </div>
        <Curves chosen={chosen} records={records} axis={axis} smoothing={smoothing} logScale={logScale} />
        {chosen.map((name) => {
          const run = runs.find((one) => one.name === name);
          return run === undefined ? null : <Details key={name} run={run} records={records.get(name) ?? []} />;
        })}
      </div>
    </div>
  );
}

/** All records of each run, added to as the files grow. */
function useMetrics(names: string[]): Map<string, MetricRecord[]> {
  const held = useRef(new Map<string, { records: MetricRecord[]; offset: number }>());
  const [shown, show] = useState(new Map<string, MetricRecord[]>());
  const wanted = names.join("\n");
  useEffect(() => {
    let gone = false;
    let timer = 0;
    const look = async () => {
      let changed = false;
      for (const name of wanted === "" ? [] : wanted.split("\n")) {
        const old = held.current.get(name) ?? { records: [], offset: 0 };
        try {
          const { records, offset, restarted } = await api.metrics(name, old.offset);
          if (records.length > 0 || restarted || !held.current.has(name)) {
            held.current.set(name, { records: restarted ? records : [...old.records, ...records], offset });
            changed = true;
          }
        } catch {
          // a run whose folder is gone, or a studio that is: the list of runs says so
        }
        if (gone) return;
      }
      if (changed) show(new Map([...held.current].map(([name, one]) => [name, one.records])));
      timer = window.setTimeout(() => void look(), POLL_MS);
    };
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [wanted]);
  return shown;
}

function Curves(props: {
  chosen: string[];
  records: Map<string, MetricRecord[]>;
  axis: Axis;
  smoothing: number;
  logScale: boolean;
}) {
  const { chosen, records, axis, smoothing, logScale } = props;
  const charts = useMemo(() => {
    const all = chosen.map((name) => ({ name, records: records.get(name) ?? [] }));
    return chartsOf(all.flatMap((one) => one.records)).map((key) => ({
      key,
      series: all.map((one): Series => {
        const points = one.records
          .map((record) => [xOf(record, axis, one.records), record[key]] as const)
          .filter((point): point is [number, number] => typeof point[0] === "number" && typeof point[1] === "number");
        return {
          name: one.name,
          x: points.map(([x]) => x),
          y: smooth(points.map(([, y]) => y), smoothing),
        };
      }),
    }));
  }, [chosen.join("\n"), records, axis, smoothing]);
  return (
    <div class="charts">
      {charts.map(({ key, series }) => (
        <Chart key={key} title={key} series={series} xLabel={axis} logScale={logScale} />
      ))}
    </div>
  );
}

function Details({ run, records }: { run: Run; records: MetricRecord[] }) {
  const [details, setDetails] = useState<RunDetails | null>(null);
  useEffect(() => {
    let gone = false;
    api.run(run.name).then(
      (found) => {
        if (!gone) setDetails(found);
      },
      () => undefined,
    );
    return () => {
      gone = true;
    };
  }, [run.name, run.status, run.checkpoints.length]);
  const written = records.flatMap((record) =>
    Object.entries(record)
      .filter(([key, value]) => key.startsWith("sample_") && typeof value === "string")
      .map(([key, value]) => ({ step: record.step, key, text: value as string })),
  );
  const alarms = records.filter((record) => record.event !== undefined && record.event !== "evaluation" && record.event !== "sample");
  const models = run.checkpoints.slice(-4).map((step) => `${run.name}@step-${String(step)}`);
  return (
    <section class="run-details" aria-label={run.name}>
      <h2>{run.name}</h2>
      {run.checkpoints.length > 0 && (
        <>
          <h3>{t("checkpoints")}</h3>
          <div class="row wrap">
            {run.checkpoints.map((step) => (
              <button
                key={step}
                type="button"
                onClick={() => { go(`/chat?model=${encodeURIComponent(`${run.name}@step-${String(step)}`)}`); }}
              >
                {t("sampleAt", { n: step })}
              </button>
            ))}
            {models.length > 1 && (
              <button
                type="button"
                class="primary"
                onClick={() => { go(`/chat?${models.map((one) => `model=${encodeURIComponent(one)}`).join("&")}`); }}
              >
                {t("compareCheckpoints")}
              </button>
            )}
          </div>
        </>
      )}
      {alarms.length > 0 && (
        <>
          <h3>{t("alarms")}</h3>
          <ul class="small">
            {alarms.slice(-20).map((record, at) => (
              <li key={at}>{`${t("sampleAt", { n: record.step })}: ${String(record.event)}`}</li>
            ))}
          </ul>
        </>
      )}
      {(written.length > 0 || (details?.samples.length ?? 0) > 0) && (
        <>
          <h3>{t("samples")}</h3>
          <div class="samples">
            {written.slice(-12).map((sample) => (
              <figure key={`${String(sample.step)}${sample.key}`}>
                <figcaption class="small muted">{t("sampleAt", { n: sample.step })}</figcaption>
                <p class="text">{sample.text}</p>
              </figure>
            ))}
            {details?.samples.slice(0, 8).map((sample, at) => (
              <figure key={at}>
                <figcaption class="small muted">{sample.prompt}</figcaption>
                <p class="text">{sample.text}</p>
              </figure>
            ))}
          </div>
        </>
      )}
      {details?.recipe != null && (
        <details>
          <summary>{t("recipe")}</summary>
          <pre tabIndex={0}>{details.recipe}</pre>
        </details>
      )}
      {details !== null && Object.keys(details.environment).length > 0 && (
        <details>
          <summary>{t("environment")}</summary>
          <pre tabIndex={0}>{JSON.stringify(details.environment, null, 2)}</pre>
        </details>
      )}
    </section>
  );
}
