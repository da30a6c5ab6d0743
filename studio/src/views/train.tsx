import { useEffect, useState } from "preact/hooks";

import { api } from "../api";
import { t } from "../i18n";
import { go, setQuery } from "../router";
import type { FieldValue, Launch, RecipeField } from "../types";

const POLL_MS = 1500;

/** A recipe as a form made from its schema, and the runs that were started here. */
export function TrainView({ query }: { query: URLSearchParams }) {
  const [recipes, setRecipes] = useState<{ name: string; about: string }[] | null>(null);
  const [fields, setFields] = useState<RecipeField[]>([]);
  const [changes, setChanges] = useState<Record<string, FieldValue>>({});
  const [filter, setFilter] = useState("");
  const [fault, setFault] = useState<string | null>(null);
  const [launches, setLaunches] = useState<Launch[]>([]);
  const told = (error: unknown) => {
    setFault(error instanceof TypeError ? t("lost") : error instanceof Error ? error.message : String(error));
  };
  const chosen = query.get("recipe") ?? recipes?.find((one) => one.name === "pretrain/pretrain.yaml")?.name ?? recipes?.[0]?.name;

  useEffect(() => {
    api.recipes().then((found) => { setRecipes(found.recipes); }, told);
    let timer = 0;
    let gone = false;
    const look = async () => {
      try {
        const found = (await api.launches()).launches;
        if (!gone) setLaunches(found);
      } catch (error) {
        if (!gone) told(error);
      }
      if (!gone) timer = window.setTimeout(() => void look(), POLL_MS);
    };
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);

  useEffect(() => {
    if (chosen === undefined) return;
    let gone = false;
    setChanges({});
    api.recipe(chosen).then((found) => {
      if (!gone) setFields(found.fields);
    }, told);
    return () => {
      gone = true;
    };
  }, [chosen]);

  if (recipes === null) return <p class="notice" role="status">{fault ?? t("computing")}</p>;
  const set = (field: RecipeField, value: FieldValue) => {
    const next = Object.fromEntries(Object.entries(changes).filter(([key]) => key !== field.key));
    if (value !== field.value) next[field.key] = value;
    setChanges(next);
  };
  const shown = fields.filter(
    (field) => field.key in changes || `${field.key} ${field.about}`.toLowerCase().includes(filter.toLowerCase()),
  );
  const count = Object.keys(changes).length;
  return (
    <div class="page">
      <div class="toolbar">
        <label class="inline">
          <span class="small muted">{t("recipe")}</span>
          <select value={chosen} onChange={(event) => { setQuery({ recipe: event.currentTarget.value }); }}>
            {recipes.map((recipe) => (
              <option key={recipe.name} value={recipe.name}>{recipe.name}</option>
            ))}
          </select>
        </label>
        <input
          type="search"
          placeholder={t("search")}
          aria-label={t("search")}
          value={filter}
          onInput={(event) => { setFilter(event.currentTarget.value); }}
        />
        <span class="grow" />
        {count > 0 && <span class="small muted">{t("changed", { n: count })}</span>}
        <button
          type="button"
          class="primary"
          onClick={() => {
            if (chosen === undefined) return;
            setFault(null);
            api.start(chosen, changes).then((one) => { setLaunches([one, ...launches]); }, told);
          }}
        >
          {t("start")}
        </button>
      </div>
      <p class="muted">{recipes.find((recipe) => recipe.name === chosen)?.about}</p>
      {fault !== null && <p class="fault" role="alert">{fault}</p>}
      {launches.length > 0 && (
        <section aria-label={t("started")}>
          <h2>{t("started")}</h2>
          {launches.map((one) => (
            <div class="launch" key={one.id} data-launch={one.status}>
              <div class="row wrap">
                <strong>{one.out}</strong>
                <span class={`small status ${one.status}`}>
                  {t(one.status === "running" ? "running" : `status_${one.status}`)}
                </span>
                <span class="grow" />
                <button type="button" onClick={() => { go(`/runs?run=${encodeURIComponent(one.out)}`); }}>
                  {t("showCurves")}
                </button>
                {one.status === "running" && (
                  <button type="button" onClick={() => { api.stopRun(one.id).catch(told); }}>{t("stopRun")}</button>
                )}
              </div>
              <p class="small muted">{[one.recipe, ...one.words].join(" ")}</p>
              {one.said !== "" && <pre tabIndex={0}>{one.said}</pre>}
            </div>
          ))}
        </section>
      )}
      <div class="fields">
        {shown.map((field) => (
          <Field key={`${chosen ?? ""}${field.key}`} field={field} value={field.key in changes ? (changes[field.key] ?? null) : field.value} onChange={(value) => { set(field, value); }} />
        ))}
      </div>
    </div>
  );
}

function Field(props: { field: RecipeField; value: FieldValue; onChange: (value: FieldValue) => void }) {
  const { field, value, onChange } = props;
  const input = () => {
    if (field.kind === "switch") {
      return (
        <span class="inline">
          <input
            type="checkbox"
            checked={value === true}
            onChange={(event) => { onChange(event.currentTarget.checked); }}
          />
          {t("on")}
        </span>
      );
    }
    if (field.kind === "choice") {
      return (
        <select value={String(value)} onChange={(event) => { onChange(event.currentTarget.value); }}>
          {field.choices.map((choice) => (
            <option key={choice} value={choice}>{choice}</option>
          ))}
        </select>
      );
    }
    const numeric = field.kind !== "text";
    return (
      <input
        type={numeric ? "number" : "text"}
        step={field.kind === "integer" ? 1 : "any"}
        value={value === null ? "" : String(value)}
        onChange={(event) => {
          const text = event.currentTarget.value;
          if (text === "") onChange(null);
          else onChange(numeric ? Number(text) : text);
        }}
      />
    );
  };
  return (
    <label class={value === field.value ? "" : "changed"} data-field={field.key}>
      <code>{field.key}</code>
      {input()}
      <span class="small muted">{field.about}</span>
    </label>
  );
}
