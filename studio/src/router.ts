import { useEffect, useState } from "preact/hooks";

export interface Place {
  /** the view, such as "chat", and what it shows */
  view: string;
  id: string | null;
  query: URLSearchParams;
}

/** An address's view. */
export function placeOf(path: string, search: string): Place {
  const [view, ...rest] = path.split("/").filter((part) => part !== "");
  const id = rest.length ? decodeURIComponent(rest.join("/")) : null;
  return { view: view ?? "chat", id, query: new URLSearchParams(search) };
}

const CHANGED = "glassbox-place";

/** Go to another address; `replace` leaves no step to go back to. */
export function go(address: string, replace = false): void {
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  dispatchEvent(new Event(CHANGED));
}

/** Change the address's query: null removes a key. */
export function setQuery(change: Record<string, string | null>, replace = false): void {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(change)) {
    if (value === null) query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  go(location.pathname + (text ? `?${text}` : ""), replace);
}

/** The current address's view. */
export function usePlace(): Place {
  const read = () => placeOf(location.pathname, location.search);
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const changed = () => {
      setPlace(read());
    };
    addEventListener(CHANGED, changed);
    addEventListener("popstate", changed);
    return () => {
      removeEventListener(CHANGED, changed);
      removeEventListener("popstate", changed);
    };
  }, []);
  return place;
}
