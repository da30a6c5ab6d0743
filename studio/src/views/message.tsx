import { memo } from "preact/compat";
import { useEffect, useRef, useState } from "preact/hooks";

import { download } from "../api";
import { t, useLanguage } from "../i18n";
import { IconButton } from "../icons";
import { level, percent, visible } from "../numbers";
import type { Colouring } from "../preferences";
import type { Message, Token } from "../types";
import { shortName } from "./model_select";

export interface MessageActions {
  regenerate: (message: Message) => void;
  edit: (message: Message, content: string) => void;
  choose: (version: string) => void;
  stop: (message: Message) => void;
  select: (message: Message, place: number) => void;
}

interface Props {
  message: Message;
  versions: string[];
  selected: number;
  colouring: Colouring;
  actions: MessageActions;
}

/** One turn of a branch: its text, token by token where a model wrote it, and what can be done with it. */
export const MessageView = memo(
  function MessageView({ message, versions, selected, colouring, actions }: Props) {
    useLanguage();
    const [draft, setDraft] = useState<string | null>(null);
    const [copied, setCopied] = useState(false);
    const mine = message.role === "user";
    const at = versions.indexOf(message.id);
    const running = message.status === "running";
    return (
      <article class={`message ${message.role}`} data-id={message.id} data-status={message.status}>
        <h2 class="who">{mine ? t("you") : shortName(message.model ?? t("role_assistant"))}</h2>
        {draft !== null ? (
          <form
            class="edit"
            onSubmit={(event) => {
              event.preventDefault();
              actions.edit(message, draft);
              setDraft(null);
            }}
          >
            <textarea
              rows={Math.min(12, draft.split("\n").length + 1)}
              value={draft}
              aria-label={t("edit")}
              onInput={(event) => { setDraft(event.currentTarget.value); }}
            />
            <div class="row">
              <button type="submit" class="primary">{mine ? t("saveSend") : t("save")}</button>
              <button type="button" onClick={() => { setDraft(null); }}>{t("cancel")}</button>
            </div>
          </form>
        ) : message.tokens.length > 0 ? (
          <TokenText message={message} selected={selected} colouring={colouring} onSelect={actions.select} />
        ) : (
          <div class="text">{message.content}{running && <span class="caret" aria-hidden="true" />}</div>
        )}
        {message.tokens.length > 1 && (
          <Strip message={message} selected={selected} onSelect={actions.select} />
        )}
        <Facts message={message} />
        {draft === null && (
          <div class="actions">
            {versions.length > 1 && (
              <span class="versions">
                <IconButton
                  icon="left"
                  label={t("previous")}
                  disabled={at === 0}
                  onClick={() => { actions.choose(versions[at - 1] ?? message.id); }}
                />
                <span class="small" aria-label={t("version", { n: at + 1, of: versions.length })}>
                  {at + 1}/{versions.length}
                </span>
                <IconButton
                  icon="right"
                  label={t("next")}
                  disabled={at === versions.length - 1}
                  onClick={() => { actions.choose(versions[at + 1] ?? message.id); }}
                />
              </span>
            )}
            {running ? (
              <IconButton icon="stop" label={t("stopAnswer")} onClick={() => { actions.stop(message); }} />
            ) : (
              <>
                <IconButton icon="edit" label={t("edit")} onClick={() => { setDraft(message.content); }} />
                {!mine && (
                  <IconButton icon="again" label={t("regenerate")} onClick={() => { actions.regenerate(message); }} />
                )}
                <IconButton
                  icon="copy"
                  label={copied ? t("copied") : t("copy")}
                  onClick={() => {
                    void navigator.clipboard.writeText(message.content).then(() => {
                      setCopied(true);
                      setTimeout(() => { setCopied(false); }, 1500);
                    });
                  }}
                />
                {!mine && (
                  <IconButton
                    icon="page"
                    label={t("exportHtml")}
                    onClick={() => void download(`/api/messages/${message.id}/export?form=html`)}
                  />
                )}
                {!mine && message.status !== "edited" && message.request.changes === undefined && (
                  <IconButton
                    icon="code"
                    label={t("exportPython")}
                    onClick={() => void download(`/api/messages/${message.id}/export?form=python`)}
                  />
                )}
              </>
            )}
          </div>
        )}
      </article>
    );
  },
  (before, after) =>
    before.message === after.message &&
    before.selected === after.selected &&
    before.colouring === after.colouring &&
    before.versions.join() === after.versions.join() &&
    before.actions === after.actions,
);

function Facts({ message }: { message: Message }) {
  if (message.role === "user") return null;
  const parts: string[] = [];
  const made = message.tokens.slice(message.request.kept ?? 0);
  const seconds = made.slice(1).reduce((sum, token) => sum + token.m, 0) / 1000;
  if (message.tokens.length > 0) parts.push(t("tokens", { n: message.tokens.length }));
  if (seconds > 0) parts.push(t("tokensPerSecond", { n: Math.round((made.length - 1) / seconds) }));
  const changes = message.request.changes;
  if (changes !== undefined) {
    const off = [...changes.heads.map(([layer, head]) => `${String(layer)}.${String(head)}`), ...changes.parts];
    if (off.length > 0) parts.push(t("changedOff", { n: off.join(", ") }));
    if (changes.steer) parts.push(t("changedSteer", { n: changes.steer.layer }));
  }
  if (message.request.left_out) parts.push(t("leftOut", { n: message.request.left_out }));
  if (message.status === "done" && message.note === "length") parts.push(t("status_length"));
  else if (message.status !== "done") parts.push(t(`status_${message.status}`));
  if (message.status === "failed" && message.note !== null) parts.push(message.note);
  return (
    <p class={`facts small ${message.status === "failed" ? "fault" : "muted"}`}>{parts.join(" · ")}</p>
  );
}

/** The class that colours a token. */
export function shade(token: Token, colouring: Colouring): string {
  if (colouring === "none") return "";
  if (colouring === "entropy") {
    const entropy = token.h ?? 0;
    return `p${String([0.5, 1, 2, 3].filter((bound) => entropy > bound).length)}`;
  }
  return `p${String(level(token.l))}`;
}

const CHUNK = 64;

const Chunk = memo(
  function Chunk(props: { tokens: Token[]; first: number; last: number; selected: number; colouring: Colouring }) {
    const spans = [];
    for (let place = props.first; place < props.last; place += 1) {
      const token = props.tokens[place];
      if (token === undefined || (token.t === "" && token.e === undefined)) continue;
      spans.push(
        <span
          key={place}
          data-k={place}
          class={`t ${shade(token, props.colouring)} ${token.f ? "forced" : ""} ${
            place === props.selected ? "chosen" : ""
          } ${token.e ? "end" : ""}`}
        >
          {token.e ? "◼" : token.t}
        </span>,
      );
    }
    return <>{spans}</>;
  },
  // tokens are only ever added, so a chunk of the same length is the same
  (before, after) =>
    before.first === after.first &&
    before.last === after.last &&
    before.selected === after.selected &&
    before.colouring === after.colouring,
);

function TokenText(props: {
  message: Message;
  selected: number;
  colouring: Colouring;
  onSelect: (message: Message, place: number) => void;
}) {
  const { message, selected, colouring, onSelect } = props;
  const box = useRef<HTMLDivElement>(null);
  const tokens = message.tokens;
  const chunks = [];
  for (let first = 0; first < tokens.length; first += CHUNK) {
    const last = Math.min(first + CHUNK, tokens.length);
    const here = selected >= first && selected < last ? selected : -1;
    chunks.push(
      <Chunk key={first} tokens={tokens} first={first} last={last} selected={here} colouring={colouring} />,
    );
  }
  useEffect(() => {
    if (selected >= 0) {
      box.current?.querySelector(`[data-k="${String(selected)}"]`)?.scrollIntoView({ block: "nearest" });
    }
  }, [selected]);
  return (
    <div
      ref={box}
      class="text tokens"
      role="group"
      tabIndex={0}
      aria-label={t("answerLabel", { model: shortName(message.model ?? "") })}
      aria-busy={message.status === "running"}
      onClick={(event) => {
        const place = (event.target as HTMLElement).closest<HTMLElement>("[data-k]")?.dataset["k"];
        if (place !== undefined) onSelect(message, Number(place));
      }}
      onKeyDown={(event) => {
        if (event.key === "Enter" && selected < 0) onSelect(message, 0);
        const move = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
        if (selected >= 0 && move !== 0) {
          event.preventDefault();
          onSelect(message, Math.min(Math.max(selected + move, 0), tokens.length - 1));
        }
      }}
    >
      {chunks}
      {message.status === "running" && <span class="caret" aria-hidden="true" />}
    </div>
  );
}

/** The log-probability bar: one column a token, higher where the token was less likely. */
function Strip(props: {
  message: Message;
  selected: number;
  onSelect: (message: Message, place: number) => void;
}) {
  const { message, selected, onSelect } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const tokens = message.tokens;
  useEffect(() => {
    const element = canvas.current;
    const paper = element?.getContext("2d");
    if (element === null || paper === null || paper === undefined) return;
    const ratio = devicePixelRatio || 1;
    const width = element.clientWidth;
    const height = element.clientHeight;
    element.width = width * ratio;
    element.height = height * ratio;
    paper.scale(ratio, ratio);
    const style = getComputedStyle(element);
    const step = Math.min(8, width / tokens.length);
    tokens.forEach((token, place) => {
      const part = Math.min(1, -(token.l ?? 0) / 8);
      paper.fillStyle = style.getPropertyValue(place === selected ? "--accent" : "--strip");
      const tall = Math.max(1, part * height);
      paper.fillRect(place * step, height - tall, Math.max(0.5, step - (step > 3 ? 1 : 0)), tall);
    });
  }, [tokens, selected]);
  return (
    <canvas
      ref={canvas}
      class="strip"
      role="img"
      aria-label={t("logProbBar")}
      title={t("logProbBar")}
      onClick={(event) => {
        const box = event.currentTarget.getBoundingClientRect();
        const step = Math.min(8, box.width / tokens.length);
        const place = Math.floor((event.clientX - box.left) / step);
        if (place < tokens.length) onSelect(message, place);
      }}
    />
  );
}

/** A token's name and probability, for tooltips. */
export function labelOf(token: Token): string {
  const name = visible(token.s ?? token.t);
  return token.l === null ? name : `${name} ${percent(Math.exp(token.l))}`;
}
