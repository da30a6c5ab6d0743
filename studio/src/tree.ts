import type { Message, News } from "./types";

/** The messages of a chat as a tree: every message may have several versions beside it. */
export class Tree {
  readonly byId = new Map<string, Message>();
  private readonly children = new Map<string | null, string[]>();

  constructor(messages: Iterable<Message> = []) {
    for (const message of messages) this.add(message);
  }

  /** Add a message, or replace the one with its id. */
  add(message: Message): void {
    if (!this.byId.has(message.id)) {
      const siblings = this.children.get(message.parent);
      if (siblings === undefined) this.children.set(message.parent, [message.id]);
      else siblings.push(message.id);
    }
    this.byId.set(message.id, message);
  }

  /** From the first message to this one; [] for null and for ids that are not there. */
  path(leaf: string | null): Message[] {
    const found: Message[] = [];
    const seen = new Set<string>();
    for (let id = leaf; id !== null && !seen.has(id);) {
      seen.add(id);
      const message = this.byId.get(id);
      if (message === undefined) break;
      found.push(message);
      id = message.parent;
    }
    return found.reverse();
  }

  /** The versions of a message, itself included, oldest first. */
  versions(message: Message): string[] {
    const siblings = this.children.get(message.parent) ?? [];
    return siblings.filter((id) => this.byId.get(id)?.role === message.role);
  }

  /** The end of the newest branch through a message. */
  newestLeaf(id: string): string {
    let leaf = id;
    for (;;) {
      const next = this.children.get(leaf)?.at(-1);
      if (next === undefined) return leaf;
      leaf = next;
    }
  }

  /** Whether one message lies on the way to another. */
  isOnPath(id: string, leaf: string | null): boolean {
    return this.path(leaf).some((message) => message.id === id);
  }

  /** Take in what is new of an answer; false where nothing changed. */
  take(news: News): boolean {
    const old = this.byId.get(news.message);
    if (old === undefined) return false;
    // tokens that came twice, after a connection broke, are not added twice
    const fresh = news.tokens.slice(Math.max(0, old.tokens.length - news.first));
    if (news.first > old.tokens.length) return false;
    if (fresh.length === 0 && old.status === news.status) return false;
    this.byId.set(news.message, {
      ...old,
      tokens: fresh.length ? [...old.tokens, ...fresh] : old.tokens,
      content: old.content + fresh.map((token) => token.t).join(""),
      status: news.status,
      note: news.note,
    });
    return true;
  }

  /** MESSAGE:COUNT of every answer under way, for the server to go on from. */
  seen(): string {
    return [...this.byId.values()]
      .filter((message) => message.status === "running")
      .map((message) => `${message.id}:${String(message.tokens.length)}`)
      .join(",");
  }
}
