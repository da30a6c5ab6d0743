import type {
  Changes, Chat, ChatSettings, Engine, FieldValue, Inside, Launch, Message, MetricRecord, Model, News, Piece, RecipeField, Run,
  RunDetails, Sampling, Truth,
} from "./types";

/** What the server answered instead of what was asked for. */
export class ApiFault extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const KEY = "glassbox-key";
let onKeyWanted: () => void = () => undefined;

/** What to do when the server wants a key. */
export function whenKeyWanted(handler: () => void): void {
  onKeyWanted = handler;
}

/** Keep the key for this tab. */
export function setKey(key: string): void {
  sessionStorage.setItem(KEY, key);
}

function headers(body: boolean): Record<string, string> {
  const key = sessionStorage.getItem(KEY);
  return {
    "x-glassbox-studio": "1",
    ...(body ? { "content-type": "application/json" } : {}),
    ...(key === null ? {} : { authorization: `Bearer ${key}` }),
  };
}

async function checked(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  if (answer.status === 401) onKeyWanted();
  let message = `${String(answer.status)} ${answer.statusText}`;
  try {
    const told = (await answer.json()) as { error?: { message?: string } };
    message = told.error?.message ?? message;
  } catch {
    // no JSON: the status line has to do
  }
  throw new ApiFault(answer.status, message);
}

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const answer = await fetch(path, {
    method,
    headers: headers(body !== undefined),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return (await (await checked(answer)).json()) as T;
}

const at = (part: string): string => encodeURIComponent(part);

export const api = {
  settings: () => call<{ version: string; values: Record<string, unknown> }>("GET", "/api/settings"),
  changeSettings: (values: Record<string, unknown>) => call("PUT", "/api/settings", { values }),
  chats: () => call<{ chats: Chat[]; bytes: number; most: number }>("GET", "/api/chats"),
  newChat: (settings: ChatSettings) => call<Chat>("POST", "/api/chats", { settings }),
  chat: (id: string) =>
    call<{ chat: Chat; messages: Message[] }>("GET", `/api/chats/${at(id)}`),
  changeChat: (id: string, change: { title?: string; settings?: ChatSettings }) =>
    call<Chat>("PATCH", `/api/chats/${at(id)}`, change),
  deleteChat: (id: string) => call("DELETE", `/api/chats/${at(id)}`),
  send: (
    id: string,
    body: {
      content: string;
      to: { parent: string | null; model: string }[];
      sampling: Sampling;
      system: string;
      plain: boolean;
    },
  ) => call<{ turns: Message[]; answers: Message[] }>("POST", `/api/chats/${at(id)}/turns`, body),
  answer: (
    id: string,
    body: {
      parent: string;
      model: string;
      sampling: Sampling;
      system: string;
      plain: boolean;
      source?: string;
      kept?: number;
      token?: number;
      changes?: Changes;
    },
  ) => call<Message>("POST", `/api/chats/${at(id)}/answers`, body),
  edit: (id: string, message: string, content: string) =>
    call<Message>("POST", `/api/chats/${at(id)}/edits`, { message, content }),
  stop: (message: string) => call<Message>("POST", `/api/messages/${at(message)}/stop`),
  models: () => call<{ models: Model[] }>("GET", "/api/models"),
  tokenize: (model: string, text: string) =>
    call<{ pieces: Piece[]; characters: number; bytes: number; bytes_per_token: number }>(
      "POST", "/api/tokenize", { model, text },
    ),
  mask: (model: string, messages: { role: string; content: string }[]) =>
    call<{ pieces: Piece[]; learned: number }>("POST", "/api/mask", { model, messages }),
  inside: (message: string, place: number) =>
    call<Inside>("GET", `/api/messages/${at(message)}/inside?place=${String(place)}`),
  truth: (message: string, place: number) =>
    call<Truth>("GET", `/api/messages/${at(message)}/truth?place=${String(place)}`),
  influence: (message: string, place: number) =>
    call<{ values: number[] }>("GET", `/api/messages/${at(message)}/influence?place=${String(place)}`),
  attention: (message: string, place: number, layer: number) =>
    call<{ weights: number[][] }>(
      "GET", `/api/messages/${at(message)}/attention?place=${String(place)}&layer=${String(layer)}`,
    ),
  tile: (message: string, layer: number, head: number, row: number, column: number) =>
    call<{ size: number; rows: number[][] }>(
      "GET",
      `/api/messages/${at(message)}/tile?layer=${String(layer)}&head=${String(head)}` +
        `&row=${String(row)}&column=${String(column)}`,
    ),
  live: () => call<{ engines: Engine[] }>("GET", "/api/live"),
  recipes: () => call<{ recipes: { name: string; about: string }[] }>("GET", "/api/recipes"),
  recipe: (name: string) => call<{ fields: RecipeField[] }>("GET", `/api/recipe?name=${at(name)}`),
  launches: () => call<{ launches: Launch[] }>("GET", "/api/launches"),
  start: (recipe: string, changes: Record<string, FieldValue>) =>
    call<Launch>("POST", "/api/launches", { recipe, changes }),
  stopRun: (id: number) => call<Launch>("POST", `/api/launches/${String(id)}/stop`),
  runs: () => call<{ runs: Run[] }>("GET", "/api/runs"),
  run: (name: string) => call<RunDetails>("GET", `/api/run?name=${at(name)}`),
  metrics: (name: string, offset: number) =>
    call<{ records: MetricRecord[]; offset: number; restarted: boolean }>(
      "GET", `/api/run/metrics?name=${at(name)}&offset=${String(offset)}`,
    ),
};

/** Save what an address answers as a file. */
export async function download(path: string): Promise<void> {
  const answer = await checked(await fetch(path, { headers: headers(false) }));
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1];
  const address = URL.createObjectURL(await answer.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name ?? "export";
  link.click();
  setTimeout(() => {
    URL.revokeObjectURL(address);
  }, 10_000);
}

/** Server-sent events cut from text that arrives in any pieces. */
export class EventCutter {
  private held = "";

  push(text: string): { event: string; data: string }[] {
    this.held += text;
    const parts = this.held.split("\n\n");
    this.held = parts.pop() ?? "";
    return parts.map((part) => {
      let event = "message";
      const data: string[] = [];
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) event = line.slice(7);
        if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      return { event, data: data.join("\n") };
    });
  }
}

/**
 * Follow the answers of a chat until none is under way; true when the server said so, false when
 * the connection broke. `seen` is asked anew at each connection.
 */
export async function follow(
  chat: string,
  seen: string,
  onNews: (news: News) => void,
  signal: AbortSignal,
): Promise<boolean> {
  const answer = await checked(
    await fetch(`/api/chats/${at(chat)}/events?seen=${at(seen)}`, {
      headers: headers(false),
      signal,
    }),
  );
  const reader = answer.body?.getReader();
  if (reader === undefined) return false;
  const decoder = new TextDecoder();
  const cutter = new EventCutter();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    for (const { event, data } of cutter.push(decoder.decode(value, { stream: true }))) {
      if (event === "end") return true;
      onNews(JSON.parse(data) as News);
    }
  }
}
