import { useEffect, useRef, useState } from "preact/hooks";

import { t } from "../i18n";
import { Icon } from "../icons";

const DRAFT = "glassbox-draft";

/** Where messages are written. Enter sends, Shift+Enter begins a new line; a draft survives a reload. */
export function Composer(props: {
  placeholder: string;
  running: boolean;
  busy: boolean;
  onSend: (text: string) => Promise<void>;
  onStop: () => void;
}) {
  const [text, setText] = useState(() => sessionStorage.getItem(DRAFT) ?? "");
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    sessionStorage.setItem(DRAFT, text);
    const element = area.current;
    if (element === null) return;
    element.style.height = "auto";
    element.style.height = `${String(Math.min(element.scrollHeight, 240))}px`;
  }, [text]);
  const send = () => {
    if (text.trim() === "" || props.busy || props.running) return;
    const said = text;
    setText("");
    void props.onSend(said);
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        rows={1}
        value={text}
        aria-label={t("message")}
        placeholder={props.placeholder}
        onInput={(event) => { setText(event.currentTarget.value); }}
        onKeyDown={(event) => {
          // while a Chinese word is being composed, Enter belongs to the input method
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            send();
          }
        }}
      />
      {props.running ? (
        <button type="button" class="round stop" aria-label={t("stopAnswer")} title={t("stopAnswer")} onClick={props.onStop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button type="submit" class="round" aria-label={t("send")} title={t("send")} disabled={text.trim() === "" || props.busy}>
          <Icon name="send" />
        </button>
      )}
    </form>
  );
}
