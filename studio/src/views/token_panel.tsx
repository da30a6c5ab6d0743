import { useEffect, useRef } from "preact/hooks";

import { t } from "../i18n";
import { Icon, IconButton } from "../icons";
import { percent, short, visible } from "../numbers";
import { setQuery } from "../router";
import type { Changes, Message } from "../types";
import { InsideView } from "./inside";

interface Props {
  message: Message;
  place: number;
  query: URLSearchParams;
  onMove: (place: number) => void;
  onClose: () => void;
  onInstead: (token: number) => void;
  onChanged: (changes: Changes) => void;
}

/** What is known of one token: how likely it was, what else could have come, and to go on from there. */
export function TokenPanel({ message, place, query, onMove, onClose, onInstead, onChanged }: Props) {
  const close = useRef<HTMLDivElement>(null);
  const token = message.tokens[place];
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      if (event.key === "Escape") onClose();
    };
    addEventListener("keydown", key);
    return () => {
      removeEventListener("keydown", key);
    };
  }, [onClose]);
  if (token === undefined) return null;
  const name = token.s ?? token.t;
  const rank = token.a.findIndex(([id]) => id === token.i);
  const covered = token.a.reduce((sum, [, , logProb]) => sum + Math.exp(logProb), 0);
  const inside = query.get("view") === "inside";
  const can = message.parent !== null && message.status !== "running";
  return (
    <aside class={`panel ${inside ? "panel-wide" : ""}`} aria-label={t("token")} ref={close}>
      <div class="panel-head">
        <IconButton icon="left" label={t("previousToken")} disabled={place === 0} onClick={() => { onMove(place - 1); }} />
        <span class="small muted">{t("tokenPlace", { n: place + 1, of: message.tokens.length })}</span>
        <IconButton
          icon="right"
          label={t("nextToken")}
          disabled={place === message.tokens.length - 1}
          onClick={() => { onMove(place + 1); }}
        />
        <span class="grow" />
        <IconButton icon="close" label={t("close")} onClick={onClose} />
      </div>
      <div aria-live="polite">
        <p class="token-name"><code>{visible(name)}</code></p>
        {(token.e !== undefined || token.f !== undefined) && (
          <p class="small muted">{token.e !== undefined ? t("endToken") : t("chosenByHand")}</p>
        )}
        <dl class="figures">
          <div>
            <dt>{t("probability")}</dt>
            <dd data-figure="probability">{token.l === null ? "–" : percent(Math.exp(token.l))}</dd>
          </div>
          <div>
            <dt>{t("logProbability")}</dt>
            <dd>{token.l === null ? "–" : t("nats", { n: token.l.toFixed(3) })}</dd>
          </div>
          <div>
            <dt>{t("rank")}</dt>
            <dd>{rank < 0 ? t("rankBelow", { n: token.a.length }) : rank + 1}</dd>
          </div>
          <div>
            <dt>{t("entropy")}</dt>
            <dd title={token.h === null ? "" : t("perplexity", { n: short(Math.exp(token.h)) })}>
              {token.h === null ? "–" : t("nats", { n: token.h.toFixed(3) })}
            </dd>
          </div>
          <div>
            <dt>{t("time")}</dt>
            <dd>{t("milliseconds", { n: short(token.m) })}</dd>
          </div>
          <div>
            <dt>{t("tokenId")}</dt>
            <dd>{token.i}</dd>
          </div>
        </dl>
      </div>
      <div class="tabs" role="group" aria-label={t("token")}>
        <button type="button" aria-pressed={!inside} onClick={() => { setQuery({ view: null }, true); }}>
          {t("alternatives")}
        </button>
        <button type="button" aria-pressed={inside} onClick={() => { setQuery({ view: "inside" }, true); }}>
          {t("inside")}
        </button>
      </div>
      {inside && <InsideView message={message} place={place} query={query} onChanged={onChanged} />}
      {!inside && <>
      <ol class="alternatives">
        {token.a.map(([id, other, logProb]) => {
          const probability = Math.exp(logProb);
          return (
            <li key={id} class={id === token.i ? "taken" : ""} data-token={id} data-logprob={logProb}>
              <code title={String(id)}>{visible(other)}</code>
              <span class="bar" aria-hidden="true"><span style={{ width: `${String(100 * probability)}%` }} /></span>
              <span class="number">{percent(probability)}</span>
              {id === token.i ? (
                <span class="spacer" />
              ) : (
                <button
                  type="button"
                  class="icon-button"
                  disabled={!can}
                  title={t("continueFrom")}
                  aria-label={t("continueFromToken", { token: visible(other) })}
                  onClick={() => { onInstead(id); }}
                >
                  <Icon name="branch" />
                </button>
              )}
            </li>
          );
        })}
        <li class="muted">
          <span class="small">{t("rest")}</span>
          <span class="bar" aria-hidden="true">
            <span class="others" style={{ width: `${String(100 * Math.max(0, 1 - covered))}%` }} />
          </span>
          <span class="number">{percent(Math.max(0, 1 - covered))}</span>
          <span class="spacer" />
        </li>
      </ol>
      </>}
    </aside>
  );
}
