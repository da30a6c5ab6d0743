import { describe, expect, it } from "vitest";

import { Tree } from "./tree";
import type { Message, Token } from "./types";

const token = (text: string): Token => ({ i: 1, t: text, l: -1, h: 1, m: 1, a: [] });

function message(id: string, parent: string | null, role: "user" | "assistant", more: Partial<Message> = {}): Message {
  return {
    id, parent, role, chat: "c", content: "", model: null, status: "done", note: null,
    created: 0, request: {}, prompt: [], tokens: [], ...more,
  };
}

const tree = () =>
  new Tree([
    message("q", null, "user"),
    message("a", "q", "assistant"),
    message("b", "q", "assistant"),
    message("q2", "a", "user"),
    message("a2", "q2", "assistant"),
  ]);

describe("Tree", () => {
  it("knows the way to a message and its versions", () => {
    const chat = tree();
    expect(chat.path("a2").map((one) => one.id)).toEqual(["q", "a", "q2", "a2"]);
    expect(chat.path(null)).toEqual([]);
    expect(chat.path("gone")).toEqual([]);
    expect(chat.versions(message("a", "q", "assistant"))).toEqual(["a", "b"]);
    expect(chat.newestLeaf("a")).toBe("a2");
    expect(chat.newestLeaf("q")).toBe("b");
    expect(chat.isOnPath("q2", "a2")).toBe(true);
    expect(chat.isOnPath("b", "a2")).toBe(false);
  });

  it("does not follow a circle", () => {
    const chat = new Tree([message("x", "y", "user"), message("y", "x", "user")]);
    expect(chat.path("x").length).toBe(2);
  });

  it("takes in new tokens once, whatever comes twice", () => {
    const chat = tree();
    chat.add(message("n", "q", "assistant", { status: "running" }));
    expect(chat.seen()).toBe("n:0");
    const news = { message: "n", first: 0, tokens: [token("a"), token("b")], status: "running" as const, note: null };
    expect(chat.take(news)).toBe(true);
    expect(chat.take(news)).toBe(false);
    expect(chat.take({ ...news, first: 1, tokens: [token("b"), token("c")], status: "done", note: "stop" })).toBe(true);
    const taken = chat.byId.get("n");
    expect(taken?.content).toBe("abc");
    expect(taken?.tokens.length).toBe(3);
    expect(taken?.status).toBe("done");
    expect(chat.seen()).toBe("");
  });

  it("leaves out news that begin after a gap, or of messages it does not know", () => {
    const chat = tree();
    chat.add(message("n", "q", "assistant", { status: "running" }));
    const late = { message: "n", first: 2, tokens: [token("c")], status: "running" as const, note: null };
    expect(chat.take(late)).toBe(false);
    expect(chat.take({ ...late, message: "nobody", first: 0 })).toBe(false);
  });
});
