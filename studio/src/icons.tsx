/** Line icons, drawn on a 20 by 20 grid; the button beside says what they mean. */
const paths = {
  menu: "M3 5h14M3 10h14M3 15h14",
  close: "M5 5l10 10M15 5L5 15",
  plus: "M10 4v12M4 10h12",
  send: "M10 16V4M5 9l5-5 5 5",
  stop: "M6 6h8v8H6z",
  sliders: "M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4",
  edit: "M4 16l1-4 8-8 3 3-8 8-4 1z",
  copy: "M7 7h9v9H7zM4 13V4h9",
  again: "M16 10a6 6 0 1 1-2-4.5M16 3v4h-4",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  page: "M5 3h7l3 3v11H5zM12 3v4h3",
  code: "M7 6l-4 4 4 4M13 6l4 4-4 4",
  bin: "M4 6h12M8 6V4h4v2M6 6l1 11h6l1-11",
  columns: "M3 4h14v12H3zM10 4v12",
  chat: "M3 4h14v9H9l-4 4v-4H3z",
  curve: "M3 3v14h14M6 13l3-4 3 2 4-6",
  play: "M6 4l10 6-10 6z",
  pieces: "M3 5h6v4H3zM11 5h6v4h-6zM3 11h9v4H3zM14 11h3v4h-3z",
  grid: "M3 3h6v6H3zM11 3h6v6h-6zM3 11h6v6H3zM11 11h6v6h-6z",
  branch: "M6 3v14M6 9c6 0 8-1 8-5M14 4l-2 2M14 4l2 2",
} as const;

export type IconName = keyof typeof paths;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={paths[name]} />
    </svg>
  );
}

/** A button that shows an icon and says what it does. */
export function IconButton(props: {
  icon: IconName;
  label: string;
  onClick: () => void;
  disabled?: boolean;
  class?: string;
  pressed?: boolean;
}) {
  return (
    <button
      type="button"
      class={`icon-button ${props.class ?? ""}`}
      aria-label={props.label}
      title={props.label}
      disabled={props.disabled ?? false}
      {...(props.pressed === undefined ? {} : { "aria-pressed": props.pressed })}
      onClick={props.onClick}
    >
      <Icon name={props.icon} />
    </button>
  );
}
