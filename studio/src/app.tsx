import { useCallback, useEffect, useState } from "preact/hooks";

import { api, setKey, whenKeyWanted } from "./api";
import { t, useLanguage, type Language } from "./i18n";
import { Icon, IconButton, type IconName } from "./icons";
import { bytes } from "./numbers";
import { fetchPreferences, prefer, preferences, type Theme } from "./preferences";
import { go, usePlace } from "./router";
import type { Chat, Model } from "./types";
import { ChatView } from "./views/chat";
import { EngineView } from "./views/engine";
import { RunsView } from "./views/runs";
import { TokenizerView } from "./views/tokenizer";
import { TrainView } from "./views/train";

const views: { view: string; icon: IconName }[] = [
  { view: "chat", icon: "chat" },
  { view: "runs", icon: "curve" },
  { view: "train", icon: "play" },
  { view: "tokenizer", icon: "pieces" },
  { view: "engine", icon: "grid" },
];

export function App() {
  useLanguage();
  const place = usePlace();
  const [wantsKey, setWantsKey] = useState(false);
  const [models, setModels] = useState<Model[] | null>(null);
  const [chats, setChats] = useState<Chat[]>([]);
  const [room, setRoom] = useState({ bytes: 0, most: 1 });
  const [menu, setMenu] = useState(false);
  const [fault, setFault] = useState<string | null>(null);

  const refresh = useCallback(async () => {
    try {
      const [listed, told] = await Promise.all([api.models(), api.chats()]);
      setModels(listed.models);
      setChats(told.chats);
      setRoom({ bytes: told.bytes, most: told.most });
      setFault(null);
    } catch (error) {
      setFault(error instanceof TypeError ? t("lost") : String((error as Error).message));
    }
  }, []);

  useEffect(() => {
    whenKeyWanted(() => {
      setWantsKey(true);
    });
    void refresh();
    fetchPreferences().catch(() => undefined);
  }, [refresh]);

  useEffect(() => {
    setMenu(false);
    document.title = `${titleOf(place.view)} · Glassbox`;
  }, [place.view, place.id]);

  if (wantsKey) return <KeyForm />;
  const content = () => {
    if (models === null) return <p class="notice">{fault ?? "…"}</p>;
    if (place.view === "runs") return <RunsView query={place.query} />;
    if (place.view === "train") return <TrainView query={place.query} />;
    if (place.view === "tokenizer") return <TokenizerView models={models} query={place.query} />;
    if (place.view === "engine") return <EngineView />;
    return (
      <ChatView
        key={place.id ?? "new"}
        id={place.id}
        query={place.query}
        models={models}
        onChange={() => void refresh()}
      />
    );
  };
  return (
    <div class={`shell ${menu ? "menu-open" : ""}`}>
      <a class="skip" href="#content">
        {t("skip")}
      </a>
      <header class="topbar">
        <IconButton icon="menu" label={t("menu")} onClick={() => { setMenu(!menu); }} />
        <span class="brand">Glassbox</span>
        <IconButton icon="plus" label={t("newChat")} onClick={() => { go("/chat"); }} />
      </header>
      <Sidebar view={place.view} id={place.id} chats={chats} room={room} onChange={refresh} />
      {menu && <div class="veil" onClick={() => { setMenu(false); }} />}
      <main id="content" tabIndex={-1}>
        {fault !== null && models !== null && (
          <p class="notice fault" role="alert">{fault}</p>
        )}
        {content()}
      </main>
    </div>
  );
}

function titleOf(view: string): string {
  if (view === "runs" || view === "train" || view === "tokenizer" || view === "engine") return t(view);
  return t("chat");
}

function Link(props: { to: string; current: boolean; class?: string; children: preact.ComponentChildren }) {
  return (
    <a
      href={props.to}
      class={props.class ?? ""}
      {...(props.current ? { "aria-current": "page" as const } : {})}
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
        event.preventDefault();
        go(props.to);
      }}
    >
      {props.children}
    </a>
  );
}

function Sidebar(props: {
  view: string;
  id: string | null;
  chats: Chat[];
  room: { bytes: number; most: number };
  onChange: () => Promise<void>;
}) {
  const [theme, setTheme] = useState(preferences().theme);
  const view = views.some((one) => one.view === props.view) ? props.view : "chat";
  return (
    <nav class="sidebar" aria-label={t("studio")}>
      <div class="brand-row">
        <span class="brand">Glassbox</span>
        <span class="muted">{t("studio")}</span>
      </div>
      <ul class="views">
        {views.map((one) => (
          <li key={one.view}>
            <Link to={`/${one.view}`} current={view === one.view}>
              <Icon name={one.icon} />
              {titleOf(one.view)}
            </Link>
          </li>
        ))}
      </ul>
      <div class="list-head">
        <h2>{t("chats")}</h2>
        <IconButton icon="plus" label={t("newChat")} onClick={() => { go("/chat"); }} />
      </div>
      <ul class="chat-list">
        {props.chats.length === 0 && <li class="muted small">{t("noChats")}</li>}
        {props.chats.map((chat) => (
          <li key={chat.id}>
            <Link to={`/chat/${chat.id}`} current={props.id === chat.id}>
              {chat.title || t("untitled")}
            </Link>
            <IconButton
              icon="bin"
              label={`${t("deleteChat")}: ${chat.title || t("untitled")}`}
              onClick={() => {
                if (!confirm(t("deleteChatSure"))) return;
                void api.deleteChat(chat.id).then(props.onChange);
                if (props.id === chat.id) go("/chat");
              }}
            />
          </li>
        ))}
      </ul>
      <div class="sidebar-foot">
        {props.room.bytes > props.room.most / 2 && (
          <p class="small">{t("full", { n: bytes(props.room.bytes), of: bytes(props.room.most) })}</p>
        )}
        <label>
          <span class="small muted">{t("language")}</span>
          <select
            value={preferences().language}
            onChange={(event) => { prefer({ language: event.currentTarget.value as Language }); }}
          >
            <option value="en">English</option>
            <option value="zh">中文</option>
          </select>
        </label>
        <label>
          <span class="small muted">{t("theme")}</span>
          <select
            value={theme}
            onChange={(event) => {
              const chosen = event.currentTarget.value as Theme;
              setTheme(chosen);
              prefer({ theme: chosen });
            }}
          >
            <option value="system">{t("themeSystem")}</option>
            <option value="light">{t("themeLight")}</option>
            <option value="dark">{t("themeDark")}</option>
          </select>
        </label>
      </div>
    </nav>
  );
}

function KeyForm() {
  const [key, change] = useState("");
  return (
    <main class="key-form">
      <h1>Glassbox</h1>
      <p>{t("keyWanted")}</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          setKey(key);
          location.reload();
        }}
      >
        <label>
          {t("key")}
          <input
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => { change(event.currentTarget.value); }}
          />
        </label>
        <button class="primary" type="submit">{t("enter")}</button>
      </form>
    </main>
  );
}
