import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";

import { api, follow } from "../api";
import { t } from "../i18n";
import { IconButton } from "../icons";
import { prefer, preferences, type Colouring } from "../preferences";
import { go, setQuery } from "../router";
import { Tree } from "../tree";
import type { Changes, ChatSettings, Column, Message, Model, Sampling } from "../types";
import { Composer } from "./composer";
import { MessageView, type MessageActions } from "./message";
import { ModelSelect } from "./model_select";
import { SamplingForm, defaultSampling } from "./sampling";
import { TokenPanel } from "./token_panel";

interface Props {
  id: string | null;
  query: URLSearchParams;
  models: Model[];
  onChange: () => void;
}

/** A chat: one branch a column, a composer for all of them, and what is known of the chosen token. */
export function ChatView({ id, query, models, onChange }: Props) {
  const tree = useRef(new Tree());
  const [, draw] = useState(0);
  const [settings, setSettings] = useState<Required<ChatSettings>>(() => fresh(models, query));
  const [loaded, setLoaded] = useState(id === null);
  const [fault, setFault] = useState<string | null>(null);
  const [busy, setBusy] = useState<string | null>(null);
  const [showSettings, setShowSettings] = useState(false);
  const [colouring, setColouring] = useState(preferences().colouring);
  const [following, setFollowing] = useState(0);
  const end = useRef<HTMLDivElement>(null);

  const redraw = useCallback(() => {
    draw((count) => count + 1);
  }, []);

  // ---- loading, and following what is under way ----
  useEffect(() => {
    if (id === null) return;
    let gone = false;
    api.chat(id).then(
      ({ chat, messages }) => {
        if (gone) return;
        tree.current = new Tree(messages);
        setSettings(restored(chat.settings, models, tree.current, query.get("m")));
        setLoaded(true);
        setFollowing((count) => count + 1);
      },
      (error: unknown) => {
        if (!gone) setFault(told(error));
      },
    );
    return () => {
      gone = true;
    };
  }, [id]);

  useEffect(() => {
    if (id === null || !loaded || tree.current.seen() === "") return;
    const ending = new AbortController();
    let frame = 0;
    const run = async () => {
      for (let wait = 500; !ending.signal.aborted; wait = Math.min(2 * wait, 8000)) {
        try {
          const ended = await follow(
            id,
            tree.current.seen(),
            (news) => {
              wait = 500;
              setFault(null);
              if (tree.current.take(news) && frame === 0) {
                frame = requestAnimationFrame(() => {
                  frame = 0;
                  redraw();
                });
              }
            },
            ending.signal,
          );
          if (ended) break;
        } catch (error) {
          if (ending.signal.aborted) return;
          setFault(error instanceof TypeError ? t("lost") : told(error));
        }
        if (tree.current.seen() === "") break;
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
      redraw();
      onChange();
    };
    void run();
    return () => {
      ending.abort();
      cancelAnimationFrame(frame);
    };
  }, [id, loaded, following]);

  const save = useCallback(
    (next: Required<ChatSettings>) => {
      setSettings(next);
      if (id !== null) {
        api.changeChat(id, { settings: next }).catch((error: unknown) => {
          setFault(told(error));
        });
      }
    },
    [id],
  );

  const attempt = useCallback(async (label: string, work: () => Promise<void>) => {
    setBusy(label);
    setFault(null);
    try {
      await work();
    } catch (error) {
      setFault(told(error));
    } finally {
      setBusy(null);
    }
  }, []);

  // a reader who is at the end stays there while the answer grows
  const drawn = [...tree.current.byId.values()].reduce((sum, one) => sum + one.tokens.length, 0);
  useEffect(() => {
    const box = end.current?.closest(".chat-main");
    if (box == null) return;
    if (box.scrollHeight - box.scrollTop - box.clientHeight < 160) box.scrollTop = box.scrollHeight;
  }, [drawn]);

  // ---- what the user does ----
  const columns = settings.columns;
  const paths = columns.map((column) => tree.current.path(column.leaf));
  const running = [...tree.current.byId.values()].filter((one) => one.status === "running");

  const withLeaf = (column: number, leaf: string | null): Required<ChatSettings> => ({
    ...settings,
    columns: columns.map((one, place) => (place === column ? { ...one, leaf } : one)),
  });

  const send = (content: string, parents?: (string | null)[]) =>
    attempt(openingLabel(models, columns), async () => {
      const chat = id ?? (await api.newChat(settings)).id;
      const to = columns.map((column, place) => ({
        model: column.model,
        parent: parents === undefined ? column.leaf : (parents[place] ?? null),
      }));
      const { turns, answers } = await api.send(chat, {
        content, to, sampling: settings.sampling, system: settings.system, plain: settings.plain,
      });
      for (const message of [...turns, ...answers]) tree.current.add(message);
      const next = {
        ...settings,
        columns: columns.map((column, place) => ({ ...column, leaf: answers[place]?.id ?? column.leaf })),
      };
      if (id === null) {
        await api.changeChat(chat, { settings: next });
        onChange();
        go(`/chat/${chat}`, true);
        return;
      }
      save(next);
      setFollowing((count) => count + 1);
      onChange();
      requestAnimationFrame(() => end.current?.scrollIntoView({ block: "end" }));
    });

  const answerAgain = (
    column: number,
    message: Message,
    kept?: { source: string; kept: number; token: number },
    changes?: Changes,
  ) =>
    attempt(openingLabel(models, columns), async () => {
      if (id === null || message.parent === null) return;
      const model = kept === undefined && changes === undefined ? (columns[column]?.model ?? "") : (message.model ?? "");
      const added = await api.answer(id, {
        parent: message.parent, model, sampling: settings.sampling, system: settings.system,
        plain: settings.plain, ...kept,
        ...(changes === undefined ? {} : { changes }),
      });
      tree.current.add(added);
      save(withLeaf(column, added.id));
      if (kept !== undefined) setQuery({ m: added.id, t: String(kept.kept) }, true);
      setFollowing((count) => count + 1);
    });

  const addColumn = () => {
    const other =
      models.find((model) => !columns.some((column) => column.model === model.name))?.name ??
      columns[0]?.model ?? "";
    const asked = paths[0]?.findLast((message) => message.role === "user");
    void attempt(openingLabel(models, [{ model: other, leaf: null }]), async () => {
      let leaf: string | null = null;
      if (asked !== undefined && id !== null) {
        const added = await api.answer(id, {
          parent: asked.id, model: other, sampling: settings.sampling, system: settings.system,
          plain: settings.plain,
        });
        tree.current.add(added);
        leaf = added.id;
        setFollowing((count) => count + 1);
      }
      save({ ...settings, columns: [...columns, { model: other, leaf }] });
    });
  };

  const actionsOf = (column: number): MessageActions => ({
    regenerate: (message) => void answerAgain(column, message),
    edit: (message, content) => {
      if (id === null) return;
      if (message.role === "user") {
        // the branch forks before this turn, in its own column alone
        void attempt(openingLabel(models, columns), async () => {
          const model = columns[column]?.model ?? "";
          const { turns, answers } = await api.send(id, {
            content, to: [{ model, parent: message.parent }],
            sampling: settings.sampling, system: settings.system, plain: settings.plain,
          });
          for (const one of [...turns, ...answers]) tree.current.add(one);
          save(withLeaf(column, answers[0]?.id ?? null));
          setFollowing((count) => count + 1);
        });
      } else {
        void attempt("", async () => {
          const added = await api.edit(id, message.id, content);
          tree.current.add(added);
          save(withLeaf(column, added.id));
        });
      }
    },
    choose: (version) => {
      save(withLeaf(column, tree.current.newestLeaf(version)));
    },
    stop: (message) => void attempt("", async () => {
      await api.stop(message.id);
    }),
    select: (message, place) => {
      setQuery({ m: message.id, t: String(place) }, query.has("m"));
    },
  });

  // the same objects at every drawing, so that messages at rest are not drawn again
  const latest = useRef(actionsOf);
  latest.current = actionsOf;
  const stable = useMemo(
    () =>
      [0, 1, 2, 3].map(
        (column): MessageActions => ({
          regenerate: (message) => { latest.current(column).regenerate(message); },
          edit: (message, content) => { latest.current(column).edit(message, content); },
          choose: (version) => { latest.current(column).choose(version); },
          stop: (message) => { latest.current(column).stop(message); },
          select: (message, place) => { latest.current(column).select(message, place); },
        }),
      ),
    [],
  );

  // ---- the chosen token ----
  const chosen = tree.current.byId.get(query.get("m") ?? "");
  const place = chosen === undefined ? NaN : Number(query.get("t") ?? NaN);
  const column = chosen === undefined ? -1 : paths.findIndex((path) => path.includes(chosen));
  const panel = chosen !== undefined && Number.isInteger(place) && place >= 0 && place < chosen.tokens.length;
  const closePanel = () => {
    setQuery({ m: null, t: null, view: null });
  };

  const known = useMemo(() => new Map(models.map((model) => [model.name, model])), [models]);
  const withoutTemplate = columns.length > 0 && columns.every((one) => known.get(one.model)?.chats === false);
  const textOnly = settings.plain || withoutTemplate;

  if (models.length === 0) return <p class="notice">{t("noModels")}</p>;
  if (!loaded) return <p class="notice" role="status">{fault ?? "…"}</p>;
  return (
    <div class={`chat ${panel ? "with-panel" : ""} ${panel && query.get("view") === "inside" ? "with-inside" : ""}`}>
      <div class="chat-main">
        <div class="toolbar">
          <label class="inline">
            <span class="small muted">{t("colouring")}</span>
            <select
              value={colouring}
              onChange={(event) => {
                const value = event.currentTarget.value as Colouring;
                setColouring(value);
                prefer({ colouring: value });
              }}
            >
              <option value="probability">{t("colourProbability")}</option>
              <option value="entropy">{t("colourEntropy")}</option>
              <option value="none">{t("colourNone")}</option>
            </select>
          </label>
          <span class="grow" />
          {columns.length < 4 && <IconButton icon="columns" label={t("compare")} onClick={addColumn} />}
          <IconButton
            icon="sliders"
            label={t("settings")}
            pressed={showSettings}
            onClick={() => { setShowSettings(!showSettings); }}
          />
        </div>
        {showSettings && (
          <SamplingForm
            sampling={settings.sampling}
            system={settings.system}
            plain={settings.plain}
            canChat={!withoutTemplate}
            onPlain={(plain) => { save({ ...settings, plain }); }}
            onChange={(sampling, system) => { save({ ...settings, sampling, system }); }}
          />
        )}
        <div class="columns" data-count={columns.length}>
          {columns.map((one, index) => (
            <section class="column" key={index} aria-label={one.model}>
              <div class="column-head">
                <ModelSelect
                  models={models}
                  value={one.model}
                  onChange={(model) => {
                    save({
                      ...settings,
                      columns: columns.map((old, at) => (at === index ? { ...old, model } : old)),
                    });
                  }}
                />
                {columns.length > 1 && (
                  <IconButton
                    icon="close"
                    label={t("removeColumn")}
                    onClick={() => {
                      save({ ...settings, columns: columns.filter((_, at) => at !== index) });
                    }}
                  />
                )}
              </div>
              {paths[index]?.length === 0 && (
                <div class="welcome">
                  <h1>{t("welcome")}</h1>
                  <p>{t("welcomeText")}</p>
                </div>
              )}
              {paths[index]?.map((message) => (
                <MessageView
                  key={message.id}
                  message={message}
                  versions={tree.current.versions(message)}
                  selected={message === chosen && panel ? place : -1}
                  colouring={colouring}
                  actions={stable[index] ?? actionsOf(index)}
                />
              ))}
            </section>
          ))}
        </div>
        <div ref={end} />
        <div class="dock">
          {busy !== null && busy !== "" && <p class="small muted" role="status">{busy}</p>}
          {fault !== null && <p class="fault small" role="alert">{fault}</p>}
          <Composer
            placeholder={textOnly ? t("writeText") : t("writeMessage")}
            running={running.length > 0}
            busy={busy !== null}
            onSend={(content) => send(content)}
            onStop={() => {
              for (const one of running) actionsOf(0).stop(one);
            }}
          />
        </div>
      </div>
      {panel && (
        <TokenPanel
          message={chosen}
          place={place}
          query={query}
          onMove={(next) => { setQuery({ t: String(next) }, true); }}
          onClose={closePanel}
          onChanged={(changes) => void answerAgain(Math.max(0, column), chosen, undefined, changes)}
          onInstead={(token) =>
            void answerAgain(Math.max(0, column), chosen, { source: chosen.id, kept: place, token })
          }
        />
      )}
    </div>
  );
}

function told(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What to say while a model that is not in memory is opened. */
function openingLabel(models: Model[], columns: Column[]): string {
  const closed = columns.find(
    (column) => models.find((model) => model.name === column.model)?.open === false,
  );
  return closed === undefined ? "" : t("opening", { name: closed.model });
}

function fresh(models: Model[], query: URLSearchParams): Required<ChatSettings> {
  const asked = query.getAll("model").filter((name) => models.some((model) => model.name === name));
  const names = asked.length > 0 ? asked : models.slice(0, 1).map((model) => model.name);
  return {
    columns: names.slice(0, 4).map((model) => ({ model, leaf: null })),
    sampling: defaultSampling(),
    system: "",
    plain: false,
  };
}

/** A chat's stored settings; a message that the address names is shown even where another branch was. */
function restored(
  stored: ChatSettings,
  models: Model[],
  tree: Tree,
  asked: string | null,
): Required<ChatSettings> {
  const start = fresh(models, new URLSearchParams());
  let columns = stored.columns?.length ? stored.columns : start.columns;
  columns = columns.map((column) => ({
    ...column,
    leaf: column.leaf !== null && tree.byId.has(column.leaf) ? column.leaf : null,
  }));
  if (columns.every((column) => column.leaf === null)) {
    // settings that were never saved: the newest branch
    const newest = [...tree.byId.values()].at(-1);
    columns = columns.map((column, at) => (at === 0 ? { ...column, leaf: newest?.id ?? null } : column));
  }
  if (asked !== null && tree.byId.has(asked) && !columns.some((one) => tree.isOnPath(asked, one.leaf))) {
    const leaf = tree.newestLeaf(asked);
    columns = columns.map((column, at) => (at === 0 ? { ...column, leaf } : column));
  }
  const sampling: Sampling = stored.sampling ?? start.sampling;
  return { columns, sampling, system: stored.system ?? "", plain: stored.plain ?? false };
}
