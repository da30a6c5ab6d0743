import { t, type Word } from "../i18n";
import type { Sampling } from "../types";

export function defaultSampling(): Sampling {
  return { max_tokens: 200, temperature: 0.7, top_p: 0.95 };
}

interface Control {
  key: "temperature" | "top_p" | "top_k" | "min_p" | "max_tokens" | "repetition_penalty";
  label: Word;
  hint?: Word;
  least: number;
  most: number;
  step: number;
  fallback: number;
}

const controls: Control[] = [
  { key: "temperature", label: "temperature", hint: "temperatureHint", least: 0, most: 2, step: 0.05, fallback: 1 },
  { key: "top_p", label: "topP", least: 0.01, most: 1, step: 0.01, fallback: 1 },
  { key: "top_k", label: "topK", hint: "topKHint", least: 0, most: 200, step: 1, fallback: 0 },
  { key: "min_p", label: "minP", least: 0, most: 1, step: 0.01, fallback: 0 },
  { key: "max_tokens", label: "maxTokens", least: 1, most: 2048, step: 1, fallback: 128 },
  { key: "repetition_penalty", label: "repetition", least: 1, most: 2, step: 0.01, fallback: 1 },
];

export function SamplingForm(props: {
  sampling: Sampling;
  system: string;
  /** the text is continued as it stands */
  plain: boolean;
  canChat: boolean;
  onPlain: (plain: boolean) => void;
  onChange: (sampling: Sampling, system: string) => void;
}) {
  const { sampling, system, plain, canChat, onPlain, onChange } = props;
  return (
    <div class="sampling">
      <label class="wide">
        <span>{t("systemPrompt")}</span>
        <textarea
          rows={2}
          value={system}
          onChange={(event) => { onChange(sampling, event.currentTarget.value); }}
        />
      </label>
      {canChat && (
        <label class="wide check">
          <input
            type="checkbox"
            checked={plain}
            onChange={(event) => { onPlain(event.currentTarget.checked); }}
          />
          <span>{t("plainText")} <em class="small muted">{t("plainTextHint")}</em></span>
        </label>
      )}
      {controls.map((control) => {
        const value = sampling[control.key] ?? control.fallback;
        const set = (text: string) => {
          const number = Number(text);
          if (text === "" || !Number.isFinite(number)) return;
          const bounded = Math.min(Math.max(number, control.least), control.key === "max_tokens" ? 8192 : control.most);
          onChange({ ...sampling, [control.key]: bounded }, system);
        };
        return (
          <label key={control.key}>
            <span>
              {t(control.label)}
              {control.hint !== undefined && <em class="small muted"> {t(control.hint)}</em>}
            </span>
            <span class="slider">
              <input
                type="range"
                min={control.least}
                max={control.most}
                step={control.step}
                value={value}
                aria-label={t(control.label)}
                onChange={(event) => { set(event.currentTarget.value); }}
              />
              <input
                type="number"
                min={control.least}
                step={control.step}
                value={value}
                aria-label={t(control.label)}
                onChange={(event) => { set(event.currentTarget.value); }}
              />
            </span>
          </label>
        );
      })}
      <label>
        <span>
          {t("seed")} <em class="small muted">{t("seedHint")}</em>
        </span>
        <input
          type="number"
          min={0}
          step={1}
          value={sampling.seed ?? ""}
          onChange={(event) => {
            const text = event.currentTarget.value;
            onChange({ ...sampling, seed: text === "" ? null : Math.max(0, Math.trunc(Number(text))) }, system);
          }}
        />
      </label>
      <label>
        <span>{t("stopStrings")}</span>
        <textarea
          rows={2}
          value={(sampling.stop ?? []).join("\n")}
          onChange={(event) => {
            const stop = event.currentTarget.value.split("\n").filter((line) => line !== "");
            onChange({ ...sampling, stop: stop.slice(0, 16) }, system);
          }}
        />
      </label>
    </div>
  );
}
