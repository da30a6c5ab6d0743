import { useEffect, useState } from "preact/hooks";

import { api } from "../api";
import { t } from "../i18n";
import { IconButton } from "../icons";
import { short, visible } from "../numbers";
import { setQuery } from "../router";
import type { Model, Piece } from "../types";
import { ModelSelect } from "./model_select";

interface Turn {
  role: string;
  content: string;
}

const EXAMPLE = "Once upon a time, a fox found 1,024 red balls under the old tree. 从前有一只狐狸。";

/** A text as the tokenizer cuts it, or a chat as fine-tuning sees it. */
export function TokenizerView({ models, query }: { models: Model[]; query: URLSearchParams }) {
  const model = query.get("model") ?? models[0]?.name ?? "";
  const chat = query.get("as") === "chat";
  const text = query.get("text") ?? EXAMPLE;
  const turns = readTurns(query.get("chat"));
  const [pieces, setPieces] = useState<Piece[]>([]);
  const [facts, setFacts] = useState<string[]>([]);
  const [fault, setFault] = useState<string | null>(null);

  useEffect(() => {
    if (model === "") return;
    let gone = false;
    const timer = setTimeout(() => {
      const work = async () => {
        try {
          const told = chat ? await api.mask(model, turns) : await api.tokenize(model, text);
          if (gone) return;
          setPieces(told.pieces);
          setFacts(
            "learned" in told
              ? [t("tokens", { n: told.pieces.length }), `${String(told.learned)} ${t("learned")}`]
              : [
                  t("tokens", { n: told.pieces.length }),
                  `${String(told.characters)} ${t("characters")}`,
                  `${String(told.bytes)} ${t("bytes")}`,
                  `${short(told.bytes_per_token)} ${t("bytesPerToken")}`,
                ],
          );
          setFault(null);
        } catch (error) {
          if (!gone) setFault(error instanceof Error ? error.message : String(error));
        }
      };
      void work();
    }, 150);
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [model, chat, text, JSON.stringify(turns)]);

  if (models.length === 0) return <p class="notice">{t("noModels")}</p>;
  const setTurns = (next: Turn[]) => {
    setQuery({ chat: JSON.stringify(next) }, true);
  };
  return (
    <div class="page">
      <div class="toolbar">
        <ModelSelect models={models} value={model} onChange={(name) => { setQuery({ model: name }); }} />
        <div class="tabs" role="group" aria-label={t("tokenizer")}>
          <button type="button" aria-pressed={!chat} onClick={() => { setQuery({ as: null }); }}>{t("text")}</button>
          <button type="button" aria-pressed={chat} onClick={() => { setQuery({ as: "chat" }); }}>{t("chatMask")}</button>
        </div>
      </div>
      <p class="muted">{chat ? t("maskHint") : t("tokenizeHint")}</p>
      {chat ? (
        <div class="turns">
          {turns.map((turn, at) => (
            <div class="turn" key={at}>
              <select
                aria-label={t("role")}
                value={turn.role}
                onChange={(event) => {
                  setTurns(turns.map((one, place) => (place === at ? { ...one, role: event.currentTarget.value } : one)));
                }}
              >
                <option value="system">{t("role_system")}</option>
                <option value="user">{t("role_user")}</option>
                <option value="assistant">{t("role_assistant")}</option>
              </select>
              <textarea
                rows={2}
                aria-label={t("text")}
                value={turn.content}
                onInput={(event) => {
                  setTurns(turns.map((one, place) => (place === at ? { ...one, content: event.currentTarget.value } : one)));
                }}
              />
              <IconButton icon="close" label={t("removeTurn")} onClick={() => { setTurns(turns.filter((_, place) => place !== at)); }} />
            </div>
          ))}
          <button
            type="button"
            onClick={() => {
              setTurns([...turns, { role: turns.at(-1)?.role === "user" ? "assistant" : "user", content: "" }]);
            }}
          >
            {t("addTurn")}
          </button>
        </div>
      ) : (
        <textarea
          class="big"
          rows={5}
          aria-label={t("text")}
          value={text}
          onInput={(event) => { setQuery({ text: event.currentTarget.value }, true); }}
        />
      )}
      {fault !== null && <p class="fault" role="alert">{fault}</p>}
      <p class="facts muted" role="status">{facts.join(" · ")}</p>
      {chat && (
        <p class="legend small">
          <span class="piece learned">{t("learned")}</span> <span class="piece unlearned">{t("notLearned")}</span>
        </p>
      )}
      <div class="pieces" aria-label={t("tokens", { n: pieces.length })} role="group">
        {pieces.map((piece, at) => (
          <span
            key={at}
            title={`${String(piece.id)} · ${String(piece.bytes)} ${t("bytes")}`}
            class={`piece ${piece.special ? "special" : ""} ${
              piece.learned === undefined ? `hue-${String(at % 6)}` : piece.learned ? "learned" : "unlearned"
            }`}
          >
            {piece.name.startsWith("bytes:") ? piece.name.slice(6) : visible(piece.name)}
            {piece.name.includes("\n") && <br />}
          </span>
        ))}
      </div>
    </div>
  );
}

function readTurns(stored: string | null): Turn[] {
  try {
    const found: unknown = JSON.parse(stored ?? "");
    if (Array.isArray(found)) {
      return found.filter(
        (one): one is Turn =>
          typeof one === "object" && one !== null && typeof (one as Turn).role === "string" && typeof (one as Turn).content === "string",
      );
    }
  } catch {
    // an address that holds no chat: the example
  }
  return [
    { role: "user", content: "Where is the ball?" },
    { role: "assistant", content: "The ball is under the old tree." },
  ];
}
