import { render } from "preact-render-to-string";
import { describe, expect, it } from "vitest";

import { EventCutter } from "./api";
import { dictionaries, setLanguage, t } from "./i18n";
import { align, chartsOf, smooth, xOf } from "./metrics";
import { bytes, level, percent, short, visible } from "./numbers";
import { placeOf } from "./router";
import type { Message } from "./types";
import { MessageView, shade } from "./views/message";

describe("words", () => {
  it("are there in both languages, with the same gaps to fill", () => {
    const gaps = (text: string) => [...text.matchAll(/\{\w+\}/g)].map(([gap]) => gap).sort();
    for (const [word, english] of Object.entries(dictionaries.en)) {
      const chinese = dictionaries.zh[word as keyof typeof dictionaries.en];
      expect(chinese.length).toBeGreaterThan(0);
      expect(gaps(chinese)).toEqual(gaps(english));
    }
  });

  it("change with the language", () => {
    setLanguage("zh");
    expect(t("tokens", { n: 3 })).toBe("3 个词元");
    setLanguage("en");
    expect(t("tokens", { n: 3 })).toBe("3 tokens");
  });
});

describe("numbers", () => {
  it("levels are those of the export", () => {
    expect([0.9, 0.3, 0.1, 0.02, 0.001].map((p) => level(Math.log(p)))).toEqual([0, 1, 2, 3, 4]);
    expect(level(null)).toBe(0);
  });

  it("are short", () => {
    expect([0.5, 0.0605, 0.00123, 1e-7, 0.99999, 0].map(percent)).toEqual([
      "50.0%", "6.05%", "0.12%", "<0.001%", ">99.9%", "0%",
    ]);
    expect([12345, 1.23456, 0.000123, 0, NaN, 2.5e6].map(short)).toEqual([
      "12,345", "1.235", "1.23e-4", "0", "–", "2.5M",
    ]);
    expect([512, 2048, 3 << 20].map(bytes)).toEqual(["512 B", "2.0 KiB", "3.0 MiB"]);
    expect(visible(" a\n\t")).toBe("␣a⏎⇥");
    expect(visible("")).toBe("∅");
  });
});

describe("events", () => {
  it("are whole whatever the pieces", () => {
    const cutter = new EventCutter();
    const whole = 'data: {"a":1}\n\nevent: end\ndata: {}\n\n';
    const found = [...whole].flatMap((character) => cutter.push(character));
    expect(found).toEqual([
      { event: "message", data: '{"a":1}' },
      { event: "end", data: "{}" },
    ]);
  });
});

describe("curves", () => {
  const records = [
    { step: 0, event: "evaluation", heldout_loss: 6, heldout_loss_error: 0.1 },
    { step: 10, loss: 4, lr: 0.1, tokens: 100, seconds: 1, note: "x" },
    { step: 10, event: "evaluation", heldout_loss: 4 },
  ];

  it("are of every figure, what matters first", () => {
    expect(chartsOf(records)).toEqual(["loss", "heldout_loss", "lr"]);
  });

  it("find a place on each axis", () => {
    const [start, line, evaluation] = records;
    if (start === undefined || line === undefined || evaluation === undefined) throw new Error();
    expect(xOf(evaluation, "step", records)).toBe(10);
    expect(xOf(evaluation, "tokens", records)).toBe(100);
    expect(xOf(start, "seconds", records)).toBe(0);
    expect(xOf({ step: 99 }, "tokens", records)).toBeNull();
  });

  it("are smoothed without a bias at their beginning, and lie over one axis", () => {
    expect(smooth([2, 2, 2], 0.9).every((value) => Math.abs(value - 2) < 1e-12)).toBe(true);
    expect(smooth([1, 3], 0.5)[1]).toBeCloseTo((0.5 * 1 + 3) / 1.5);
    expect(smooth([1, 3], 0)).toEqual([1, 3]);
    expect(align([{ x: [1, 3], y: [5, 6] }, { x: [2, 3], y: [7, 8] }])).toEqual([
      [1, 2, 3], [5, null, 6], [null, 7, 8],
    ]);
  });
});

describe("addresses", () => {
  it("name a view and what it shows", () => {
    expect(placeOf("/", "").view).toBe("chat");
    const place = placeOf("/chat/ab%2Fc", "?m=1&t=2");
    expect([place.view, place.id, place.query.get("t")]).toEqual(["chat", "ab/c", "2"]);
  });
});

describe("a message", () => {
  const evil = "<img src=x onerror=alert(1)>";
  const nothing = () => undefined;
  const actions = { regenerate: nothing, edit: nothing, choose: nothing, stop: nothing, select: nothing };
  const base: Message = {
    id: "m", chat: "c", parent: "q", role: "assistant", content: evil, model: evil, status: "done",
    note: evil, created: 0, request: {}, prompt: [], tokens: [],
  };

  it("is text, whatever it says", () => {
    const tokens = [{ i: 1, t: evil, l: -3, h: 2, m: 1, a: [] }];
    for (const message of [base, { ...base, tokens }, { ...base, status: "failed" as const }]) {
      const html = render(
        <MessageView message={message} versions={["m"]} selected={-1} colouring="probability" actions={actions} />,
      );
      expect(html).toContain("&lt;img src=x onerror=alert(1)>");
      expect(html).not.toContain("<img");
    }
  });

  it("colours a token by what was asked for", () => {
    const token = { i: 1, t: "a", l: Math.log(0.03), h: 2.5, m: 1, a: [] };
    expect(shade(token, "probability")).toBe("p3");
    expect(shade(token, "entropy")).toBe("p3");
    expect(shade(token, "none")).toBe("");
  });
});
