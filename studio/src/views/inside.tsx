import { useEffect, useRef, useState } from "preact/hooks";

import { api } from "../api";
import { t } from "../i18n";
import { percent, short, visible } from "../numbers";
import { setQuery } from "../router";
import type { Changes, Inside, Message, Truth } from "../types";

interface Props {
  message: Message;
  place: number;
  query: URLSearchParams;
  onChanged: (changes: Changes) => void;
}

/** What the layers made of one token: lens, attention, influence of earlier tokens, norms, switches. */
export function InsideView({ message, place, query, onChanged }: Props) {
  const [inside, setInside] = useState<Inside | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  useEffect(() => {
    let gone = false;
    setFault(null);
    api.inside(message.id, place).then(
      (found) => {
        if (!gone) setInside(found);
      },
      (error: unknown) => {
        if (!gone) setFault(error instanceof Error ? error.message : String(error));
      },
    );
    return () => {
      gone = true;
    };
  }, [message.id, place]);
  if (fault !== null) return <p class="fault small" role="alert">{fault}</p>;
  if (inside === null) return <p class="muted small" role="status">{t("computing")}</p>;
  return (
    <div class="inside" data-ready={inside.place}>
      {inside.world && <TruthView message={message} place={place} />}
      <Lens inside={inside} />
      <Attention inside={inside} message={message} place={place} query={query} />
      <Influence inside={inside} message={message} place={place} />
      <Norms inside={inside} />
      <Routes inside={inside} />
      {inside.parts !== null && <Parts parts={inside.parts} />}
      <Switches inside={inside} onChanged={onChanged} />
    </div>
  );
}

/** What the story world's generator would write next, exactly, beside the model's probabilities. */
function TruthView({ message, place }: { message: Message; place: number }) {
  const [truth, setTruth] = useState<Truth | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  useEffect(() => {
    let gone = false;
    setFault(null);
    api.truth(message.id, place).then(
      (found) => {
        if (!gone) setTruth(found);
      },
      (error: unknown) => {
        if (gone) return;
        setTruth(null);
        setFault(error instanceof Error ? error.message : String(error));
      },
    );
    return () => {
      gone = true;
    };
  }, [message.id, place]);
  const most = Math.max(1e-9, ...(truth?.top ?? []).flatMap(([, , exact, ours]) => [Math.exp(exact), Math.exp(ours)]));
  return (
    <section data-truth={truth === null ? "" : truth.kl.toFixed(6)}>
      <h3>{t("truth")}</h3>
      <p class="small muted">{t("truthHint")}</p>
      {fault !== null && <p class="small muted" role="status">{fault}</p>}
      {truth !== null && (
        <>
          <p class="small">
            {t("truthFigures", {
              kl: truth.kl.toFixed(4), entropy: truth.entropy.toFixed(3), count: truth.count,
            })}
            {truth.own[0] === null && <strong> {t("impossible")}</strong>}
          </p>
          <div class="scroll" tabIndex={0} role="group" aria-label={t("truth")}>
            <table class="truth">
              <thead>
                <tr>
                  <th scope="col">{t("token")}</th>
                  <th scope="col">{t("generator")}</th>
                  <th scope="col">{t("model")}</th>
                </tr>
              </thead>
              <tbody>
                {truth.top.map(([id, name, exact, ours]) => (
                  <tr key={id} class={id === message.tokens[place]?.i ? "taken" : ""}>
                    <td><code>{visible(name)}</code></td>
                    {[exact, ours].map((value, at) => (
                      <td key={at}>
                        <span class="norm">
                          <span
                            class={`norm-bar series-${String(at)}`}
                            style={{ width: `${String((100 * Math.exp(value)) / most)}%` }}
                            aria-hidden="true"
                          />
                          <span class="number">{percent(Math.exp(value))}</span>
                        </span>
                      </td>
                    ))}
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

/** Experts that the token before was sent to, and the size of recurrent states. */
function Routes({ inside }: { inside: Inside }) {
  const layers = inside.routes.flatMap((route, layer) => (route === null ? [] : [{ layer, ...route }]));
  const states = inside.states.flatMap((size, layer) => (size === null ? [] : [{ layer, size }]));
  const most = Math.max(1e-9, ...states.map((one) => one.size));
  return (
    <>
      {layers.length > 0 && (
        <section>
          <h3>{t("routes")}</h3>
          <p class="small muted">{t("routesHint")}</p>
          <ul class="parts">
            {layers.map(({ layer, chosen, count }) => (
              <li key={layer} data-route={layer}>
                <span class="small muted">{layer}</span>
                <span class="experts" role="img" aria-label={chosen.map(([expert, gate]) => `${String(expert)}: ${percent(gate)}`).join(", ")}>
                  {Array.from({ length: count }, (_, expert) => {
                    const gate = chosen.find(([one]) => one === expert)?.[1] ?? 0;
                    return (
                      <span
                        key={expert}
                        class="expert"
                        title={`${String(expert)} ${percent(gate)}`}
                        style={{ "--share": `${String(Math.round(100 * Math.min(1, Math.abs(gate))))}%` }}
                      />
                    );
                  })}
                </span>
                <span class="number">{chosen.map(([expert]) => expert).join(" ")}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {states.length > 0 && (
        <section>
          <h3>{t("states")}</h3>
          <p class="small muted">{t("statesHint")}</p>
          <ul class="parts">
            {states.map(({ layer, size }) => (
              <li key={layer} data-state={layer}>
                <span class="small muted">{layer}</span>
                <span class="norm">
                  <span class="norm-bar series-0" style={{ width: `${String((100 * size) / most)}%` }} aria-hidden="true" />
                </span>
                <span class="number">{short(size)}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}

function Lens({ inside }: { inside: Inside }) {
  return (
    <section>
      <h3>{t("lens")}</h3>
      <p class="small muted">{t("lensHint")}</p>
      <div class="scroll" tabIndex={0} role="group" aria-label={t("lens")}>
        <table class="lens">
          <thead>
            <tr>
              <th scope="col">{t("layer")}</th>
              <th scope="col">{t("thisToken")}</th>
              <th scope="col">{t("rank")}</th>
              <th scope="col">{t("likeliest")}</th>
            </tr>
          </thead>
          <tbody>
            {inside.lens.map((row, layer) => (
              <tr key={layer}>
                <td>{layer === 0 ? t("embedding") : layer - 1}</td>
                <td>{percent(Math.exp(row.own))}</td>
                <td>{row.rank}</td>
                <td>
                  {row.top.slice(0, 3).map(([id, name, logProb]) => (
                    <span key={id} class="lens-token" title={percent(Math.exp(logProb))}>
                      <code>{visible(name)}</code>
                      <span class="bar" aria-hidden="true">
                        <span style={{ width: `${String(100 * Math.exp(logProb))}%` }} />
                      </span>
                    </span>
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** The earlier tokens, each shaded by a weight from 0 to 1 (or -1 to 1). */
function Weighted({ tokens, weights, label }: { tokens: string[]; weights: number[]; label: string }) {
  const most = Math.max(1e-9, ...weights.map(Math.abs));
  return (
    <div class="weighted" role="group" aria-label={label} tabIndex={0}>
      {tokens.map((name, at) => {
        const weight = weights[at] ?? 0;
        const share = Math.round((100 * Math.abs(weight)) / most);
        return (
          <span
            key={at}
            title={`${visible(name)} ${short(weight)}`}
            class={weight < 0 ? "negative" : "positive"}
            style={{ "--share": `${String(Math.min(75, 0.75 * share))}%` }}
          >
            {name.startsWith("bytes:") ? "·" : name}
          </span>
        );
      })}
    </div>
  );
}

function Attention(props: { inside: Inside; message: Message; place: number; query: URLSearchParams }) {
  const { inside, message, place, query } = props;
  const layers = inside.heads.flatMap((count, layer) => (count > 0 ? [layer] : []));
  const asked = Number(query.get("layer") ?? layers.at(-1) ?? -1);
  const layer = layers.includes(asked) ? asked : (layers.at(-1) ?? -1);
  const count = inside.heads[layer] ?? 0;
  const head = query.get("head") === null ? -1 : Math.min(Number(query.get("head")), count - 1);
  const [weights, setWeights] = useState<number[][] | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  const [matrix, setMatrix] = useState(false);
  useEffect(() => {
    if (layer < 0) return;
    let gone = false;
    api.attention(message.id, place, layer).then(
      (found) => {
        if (gone) return;
        setWeights(found.weights);
        setFault(null);
      },
      (error: unknown) => {
        if (!gone) setFault(error instanceof Error ? error.message : String(error));
      },
    );
    return () => {
      gone = true;
    };
  }, [message.id, place, layer]);
  if (layer < 0) return null;
  const shown =
    weights === null
      ? []
      : head >= 0
        ? (weights[head] ?? [])
        : (weights[0] ?? []).map((_, at) => weights.reduce((sum, row) => sum + (row[at] ?? 0), 0) / weights.length);
  return (
    <section>
      <h3>{t("attention")}</h3>
      <p class="small muted">{t("attentionHint")}</p>
      <div class="row wrap">
        <label class="inline">
          <span class="small muted">{t("layer")}</span>
          <select value={layer} onChange={(event) => { setQuery({ layer: event.currentTarget.value }, true); }}>
            {layers.map((one) => (
              <option key={one} value={one}>{one}</option>
            ))}
          </select>
        </label>
        <label class="inline">
          <span class="small muted">{t("head")}</span>
          <select
            value={head}
            onChange={(event) => {
              const chosen = event.currentTarget.value;
              setQuery({ head: chosen === "-1" ? null : chosen }, true);
            }}
          >
            <option value={-1}>{t("allHeads")}</option>
            {Array.from({ length: count }, (_, at) => (
              <option key={at} value={at}>{at}</option>
            ))}
          </select>
        </label>
        <button type="button" class="small" aria-pressed={matrix} onClick={() => { setMatrix(!matrix); }}>
          {t("matrix")}
        </button>
      </div>
      {fault !== null && <p class="fault small" role="alert">{fault}</p>}
      {weights !== null && (
        <div data-attention={layer} data-sum={shown.reduce((sum, weight) => sum + weight, 0).toFixed(3)}>
          <Weighted tokens={inside.tokens} weights={shown} label={t("attention")} />
        </div>
      )}
      {matrix && <Matrix message={message} layer={layer} head={Math.max(0, head)} size={inside.tokens.length} />}
    </section>
  );
}

const TILE = 256;

/** A head's whole matrix, drawn tile by tile as the tiles come. */
function Matrix(props: { message: Message; layer: number; head: number; size: number }) {
  const { message, layer, head, size } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [fault, setFault] = useState<string | null>(null);
  useEffect(() => {
    const paper = canvas.current?.getContext("2d");
    if (paper === null || paper === undefined || canvas.current === null) return;
    let gone = false;
    canvas.current.width = size;
    canvas.current.height = size;
    const draw = async () => {
      for (let row = 0; row < size; row += TILE) {
        for (let column = 0; column <= row; column += TILE) {
          const { rows } = await api.tile(message.id, layer, head, row, column);
          if (gone) return;
          const height = Math.min(rows.length, size - row);
          const width = Math.min(rows[0]?.length ?? 0, size - column);
          if (height <= 0 || width <= 0) continue;
          const image = paper.createImageData(width, height);
          for (let y = 0; y < height; y += 1) {
            for (let x = 0; x < width; x += 1) {
              // the root makes small weights visible
              const shade = Math.sqrt((rows[y]?.[x] ?? 0) / 255);
              const at = 4 * (y * width + x);
              image.data[at] = 11;
              image.data[at + 1] = 122;
              image.data[at + 2] = 112;
              image.data[at + 3] = 255 * shade;
            }
          }
          paper.putImageData(image, column, row);
        }
      }
    };
    draw().catch((error: unknown) => {
      if (!gone) setFault(error instanceof Error ? error.message : String(error));
    });
    return () => {
      gone = true;
    };
  }, [message.id, layer, head, size]);
  return (
    <>
      {fault !== null && <p class="fault small" role="alert">{fault}</p>}
      <canvas ref={canvas} class="matrix" role="img" aria-label={`${t("matrix")}: ${t("layer")} ${String(layer)}, ${t("head")} ${String(head)}`} />
    </>
  );
}

function Influence({ inside, message, place }: { inside: Inside; message: Message; place: number }) {
  const [values, setValues] = useState<number[] | null>(null);
  const [state, setState] = useState<"idle" | "busy" | string>("idle");
  useEffect(() => {
    setValues(null);
    setState("idle");
  }, [message.id, place]);
  return (
    <section>
      <h3>{t("influence")}</h3>
      <p class="small muted">{t("influenceHint")}</p>
      {values === null ? (
        <button
          type="button"
          class="small"
          disabled={state === "busy"}
          onClick={() => {
            setState("busy");
            api.influence(message.id, place).then(
              (found) => {
                setValues(found.values);
                setState("idle");
              },
              (error: unknown) => {
                setState(error instanceof Error ? error.message : String(error));
              },
            );
          }}
        >
          {state === "busy" ? t("computing") : t("compute")}
        </button>
      ) : (
        <Weighted tokens={inside.tokens} weights={values} label={t("influence")} />
      )}
      {state !== "idle" && state !== "busy" && <p class="fault small" role="alert">{state}</p>}
    </section>
  );
}

function Norms({ inside }: { inside: Inside }) {
  const { residual, mixer, ffn } = inside.norms;
  const most = Math.max(1e-9, ...residual, ...mixer.map((one) => one ?? 0), ...ffn.map((one) => one ?? 0));
  const bar = (value: number | null | undefined, kind: string) => (
    <td>
      {value == null ? "–" : (
        <span class="norm">
          <span class={`norm-bar ${kind}`} style={{ width: `${String((100 * value) / most)}%` }} aria-hidden="true" />
          <span class="number">{short(value)}</span>
        </span>
      )}
    </td>
  );
  return (
    <section>
      <h3>{t("norms")}</h3>
      <p class="small muted">{t("normsHint")}</p>
      <div class="scroll" tabIndex={0} role="group" aria-label={t("norms")}>
        <table class="norms">
          <thead>
            <tr>
              <th scope="col">{t("layer")}</th>
              <th scope="col">{t("residual")}</th>
              <th scope="col">{t("mixer")}</th>
              <th scope="col">{t("ffn")}</th>
            </tr>
          </thead>
          <tbody>
            {residual.map((value, layer) => (
              <tr key={layer}>
                <td>{layer === residual.length - 1 ? t("end") : layer}</td>
                {bar(value, "series-0")}
                {layer < mixer.length ? bar(mixer[layer], "series-1") : <td />}
                {layer < ffn.length ? bar(ffn[layer], "series-2") : <td />}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Parts({ parts }: { parts: [string, number][] }) {
  const most = Math.max(1e-9, ...parts.map(([, value]) => Math.abs(value)));
  return (
    <section>
      <h3>{t("parts")}</h3>
      <p class="small muted">{t("partsHint")}</p>
      <ul class="parts">
        {parts.map(([name, value]) => (
          <li key={name}>
            <code>{name.replace("blocks.", "")}</code>
            <span class="signed" aria-hidden="true">
              <span
                class={value < 0 ? "minus" : "plus"}
                style={{ width: `${String((50 * Math.abs(value)) / most)}%` }}
              />
            </span>
            <span class="number">{value.toFixed(2)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Switches({ inside, onChanged }: { inside: Inside; onChanged: (changes: Changes) => void }) {
  const [off, setOff] = useState<ReadonlySet<string>>(new Set());
  const [layer, setLayer] = useState(Math.floor(inside.switches.length / 2));
  const [scale, setScale] = useState(0);
  const [toward, setToward] = useState("");
  const [away, setAway] = useState("");
  const flip = (name: string) => {
    const next = new Set(off);
    if (!next.delete(name)) next.add(name);
    setOff(next);
  };
  const steering = scale !== 0 && toward !== "" && away !== "";
  const button = (name: string, label: string, title: string) => (
    <button
      key={name}
      type="button"
      class="switch"
      aria-pressed={off.has(name)}
      aria-label={title}
      title={title}
      onClick={() => { flip(name); }}
    >
      {label}
    </button>
  );
  return (
    <section>
      <h3>{t("switches")}</h3>
      <p class="small muted">{t("switchesHint")}</p>
      <div class="switches">
        {inside.switches.map((count, number) => (
          <div key={number} class="switch-row">
            <span class="small muted">{number}</span>
            {Array.from({ length: count }, (_, head) =>
              button(`${String(number)}.${String(head)}`, String(head), t("switchHead", { layer: number, head })),
            )}
            {button(`blocks.${String(number)}.mixer`, "M", t("switchMixer", { layer: number }))}
            {inside.norms.ffn[number] != null &&
              button(`blocks.${String(number)}.ffn`, "F", t("switchFfn", { layer: number }))}
          </div>
        ))}
      </div>
      <details>
        <summary>{t("steering")}</summary>
        <div class="steering">
          <label>
            <span class="small muted">{t("toward")}</span>
            <input type="text" value={toward} onInput={(event) => { setToward(event.currentTarget.value); }} />
          </label>
          <label>
            <span class="small muted">{t("away")}</span>
            <input type="text" value={away} onInput={(event) => { setAway(event.currentTarget.value); }} />
          </label>
          <label>
            <span class="small muted">{t("layer")} {layer}</span>
            <input
              type="range" min={0} max={inside.switches.length - 1} step={1} value={layer}
              onInput={(event) => { setLayer(Number(event.currentTarget.value)); }}
            />
          </label>
          <label>
            <span class="small muted">{t("strength")} {scale}</span>
            <input
              type="range" min={-8} max={8} step={0.25} value={scale}
              onInput={(event) => { setScale(Number(event.currentTarget.value)); }}
            />
          </label>
        </div>
      </details>
      <button
        type="button"
        class="primary"
        disabled={off.size === 0 && !steering}
        onClick={() => {
          const names = [...off];
          onChanged({
            heads: names
              .filter((name) => !name.startsWith("blocks"))
              .map((name): [number, number] => {
                const [at, head] = name.split(".").map(Number);
                return [at ?? 0, head ?? 0];
              }),
            parts: names.filter((name) => name.startsWith("blocks")),
            ...(steering ? { steer: { layer, toward, away, scale } } : {}),
          });
        }}
      >
        {t("answerChanged")}
      </button>
    </section>
  );
}
