import { useEffect, useRef, useState } from "preact/hooks";

import { api } from "../api";
import { Chart } from "../chart";
import { t } from "../i18n";
import { bytes, short } from "../numbers";
import type { Engine } from "../types";
import { shortName } from "./model_select";

const POLL_MS = 400;
const KEPT = 150;

interface Rate {
  at: number;
  rate: number;
}

/** The engines of the open models now: KV blocks, queue, running sequences, tokens a second. */
export function EngineView() {
  const [engines, setEngines] = useState<Engine[] | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  const before = useRef(new Map<string, Engine>());
  const rates = useRef(new Map<string, Rate[]>());
  useEffect(() => {
    let gone = false;
    let timer = 0;
    const look = async () => {
      try {
        const found = (await api.live()).engines;
        for (const engine of found) {
          const old = before.current.get(engine.model);
          const kept = rates.current.get(engine.model) ?? [];
          if (old !== undefined && engine.at > old.at) {
            const rate = (engine.tokens_generated - old.tokens_generated) / (engine.at - old.at);
            rates.current.set(engine.model, [...kept.slice(-KEPT), { at: engine.at, rate: Math.max(0, rate) }]);
          }
          before.current.set(engine.model, engine);
        }
        if (!gone) {
          setEngines(found);
          setFault(null);
        }
      } catch (error) {
        if (!gone) setFault(error instanceof TypeError ? t("lost") : String((error as Error).message));
      }
      if (!gone) timer = window.setTimeout(() => void look(), document.hidden ? 4000 : POLL_MS);
    };
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);
  if (engines === null) return <p class="notice" role="status">{fault ?? "…"}</p>;
  return (
    <div class="page">
      {fault !== null && <p class="fault" role="alert">{fault}</p>}
      {engines.length === 0 && <p class="notice">{t("noEngines")}</p>}
      {engines.map((engine) => (
        <EngineCard key={engine.model} engine={engine} rates={rates.current.get(engine.model) ?? []} />
      ))}
    </div>
  );
}

function EngineCard({ engine, rates }: { engine: Engine; rates: Rate[] }) {
  const first = rates[0]?.at ?? 0;
  const figures: [string, string][] = [
    [t("running"), String(engine.running)],
    [t("waiting"), String(engine.waiting)],
    [t("throughput"), t("tokensPerSecond", { n: short(rates.at(-1)?.rate ?? 0) })],
    [t("generated"), short(engine.tokens_generated)],
    [t("prefixHits"), short(engine.prefix_hits)],
    [t("preemptions"), String(engine.preemptions)],
  ];
  if (engine.drafted > 0) figures.push([t("speculation"), `${String(engine.accepted)} / ${String(engine.drafted)}`]);
  return (
    <section class="engine" aria-label={engine.model}>
      <h2>{shortName(engine.model)}</h2>
      <dl class="figures">
        {figures.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <Chart
        title={t("throughput")}
        xLabel="seconds"
        logScale={false}
        series={[{ name: engine.model, x: rates.map((one) => one.at - first), y: rates.map((one) => one.rate) }]}
      />
      {engine.blocks_total > 0 && (
        <>
          <h3>
            {t("cache")}{" "}
            <span class="small muted">
              {engine.blocks_total - engine.blocks_free} / {engine.blocks_total} {t("blocks")} · {bytes(engine.cache_bytes)}
            </span>
          </h3>
          <Blocks engine={engine} />
        </>
      )}
      {engine.sequences.length > 0 && (
        <>
          <h3>{t("sequences")}</h3>
          <div class="scroll" tabIndex={0} role="group" aria-label={t("sequences")}>
            <table>
              <thead>
                <tr>
                  <th scope="col">{t("sequence")}</th>
                  <th scope="col">{t("prompt")}</th>
                  <th scope="col">{t("reused")}</th>
                  <th scope="col">{t("generated")}</th>
                  <th scope="col">{t("blocks")}</th>
                </tr>
              </thead>
              <tbody>
                {engine.sequences.map((one) => (
                  <tr key={one.request}>
                    <td>{one.request}</td>
                    <td>{one.prompt}</td>
                    <td>{one.reused}</td>
                    <td>{one.tokens - one.prompt} / {one.most - one.prompt}</td>
                    <td>{one.blocks.length}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </section>
  );
}

/** A square for each block that was ever used; the rest of the cache is not allocated yet. */
function Blocks({ engine }: { engine: Engine }) {
  const names: Record<string, string> = { u: "inUse", s: "shared", c: "cached", f: "free", r: "free" };
  const count = (letters: string) => [...engine.blocks].filter((one) => letters.includes(one)).length;
  return (
    <>
      <div
        class="blocks"
        role="img"
        aria-label={`${t("inUse")} ${String(count("u"))}, ${t("shared")} ${String(count("s"))}, ${t("cached")} ${String(count("c"))}`}
      >
        {[...engine.blocks.slice(0, 1024)].map((state, at) => (
          <i key={at} class={`block ${names[state] ?? "free"}`} />
        ))}
      </div>
      <p class="legend small">
        {(["inUse", "shared", "cached", "free"] as const).map((name) => (
          <span key={name}>
            <i class={`block ${name}`} aria-hidden="true" /> {t(name)}
          </span>
        ))}
      </p>
    </>
  );
}
