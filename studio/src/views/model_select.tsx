import { t } from "../i18n";
import { short } from "../numbers";
import type { Model } from "../types";

/** A model's name without its folders, but with the run it belongs to. */
export function shortName(name: string): string {
  return name.split("/").slice(-2).join("/");
}

export function ModelSelect(props: {
  models: Model[];
  value: string;
  onChange: (name: string) => void;
}) {
  const chosen = props.models.find((model) => model.name === props.value);
  const facts: string[] = [];
  if (chosen?.num_parameters !== undefined) facts.push(t("parameters", { n: short(chosen.num_parameters) }));
  if (chosen?.context_length !== undefined) facts.push(t("context", { n: chosen.context_length }));
  if (chosen?.chats === false) facts.push(t("noTemplate"));
  return (
    <div class="model-select">
      <select
        aria-label={t("model")}
        value={props.value}
        onChange={(event) => { props.onChange(event.currentTarget.value); }}
      >
        {chosen === undefined && <option value={props.value}>{props.value}</option>}
        {props.models.map((model) => (
          <option key={model.name} value={model.name}>
            {model.name}
          </option>
        ))}
      </select>
      {facts.length > 0 && <span class="small muted">{facts.join(" · ")}</span>}
      {chosen?.fault != null && <span class="small fault">{chosen.fault}</span>}
    </div>
  );
}
