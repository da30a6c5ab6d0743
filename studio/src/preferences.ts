import { api } from "./api";
import { setLanguage, type Language } from "./i18n";

export type Theme = "system" | "light" | "dark";
export type Colouring = "none" | "probability" | "entropy";

export interface Preferences {
  language: Language;
  theme: Theme;
  colouring: Colouring;
}

const KEY = "glassbox-preferences";

function fallback(): Preferences {
  const chinese = navigator.language.toLowerCase().startsWith("zh");
  return { language: chinese ? "zh" : "en", theme: "system", colouring: "probability" };
}

let current: Preferences | null = null;

/** What the user chose, kept in the browser and, so that another browser finds it, in the studio. */
export function preferences(): Preferences {
  if (current === null) {
    current = fallback();
    try {
      take(JSON.parse(localStorage.getItem(KEY) ?? "{}"));
    } catch {
      // damaged or forbidden storage: the fallback stands
    }
  }
  return current;
}

/** Take in stored values, each only if it is one that we know. */
function take(stored: unknown): void {
  if (typeof stored !== "object" || stored === null || current === null) return;
  const { language, theme, colouring } = stored as Record<string, unknown>;
  if (language === "en" || language === "zh") current.language = language;
  if (theme === "system" || theme === "light" || theme === "dark") current.theme = theme;
  if (colouring === "none" || colouring === "probability" || colouring === "entropy") {
    current.colouring = colouring;
  }
}

/** Put language and theme into effect. */
export function applyPreferences(): void {
  const { language, theme } = preferences();
  setLanguage(language);
  const root = document.documentElement;
  if (theme === "system") root.removeAttribute("data-theme");
  else root.setAttribute("data-theme", theme);
}

function remember(): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences()));
  } catch {
    // private windows may forbid it; the studio keeps it too
  }
}

/** Change one and keep it. */
export function prefer(change: Partial<Preferences>): void {
  Object.assign(preferences(), change);
  remember();
  applyPreferences();
  api.changeSettings({ preferences: preferences() }).catch(() => undefined);
}

/** The studio's own copy, for a browser that has none. */
export async function fetchPreferences(): Promise<void> {
  if (localStorage.getItem(KEY) !== null) return;
  const { values } = await api.settings();
  preferences();
  take(values["preferences"]);
  remember();
  applyPreferences();
}
