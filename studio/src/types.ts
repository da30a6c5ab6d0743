/** A token as the server sends it; see `Growing` in studio/answers.py. */
export interface Token {
  /** id */
  i: number;
  /** the text it adds */
  t: string;
  /** its own name, where that differs from t */
  s?: string;
  /** log-probability, nats */
  l: number | null;
  /** entropy of the distribution it was drawn from, nats */
  h: number | null;
  /** milliseconds since the token before */
  m: number;
  /** the likeliest: id, name, log-probability */
  a: [number, string, number][];
  /** it ended the answer */
  e?: 1;
  /** chosen by hand */
  f?: 1;
}

export type Status = "running" | "done" | "stopped" | "failed" | "interrupted" | "edited";

export interface Message {
  id: string;
  chat: string;
  parent: string | null;
  role: "user" | "assistant";
  content: string;
  model: string | null;
  status: Status;
  note: string | null;
  created: number;
  request: { sampling?: Sampling; system?: string; plain?: boolean; left_out?: number; kept?: number; changes?: Changes };
  prompt: number[];
  tokens: Token[];
}

export interface Sampling {
  max_tokens?: number;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
  seed?: number | null;
  stop?: string[];
}

export interface Column {
  model: string;
  /** the last message of the branch that the column shows */
  leaf: string | null;
}

export interface ChatSettings {
  columns?: Column[];
  sampling?: Sampling;
  system?: string;
  /** the text is continued as it stands, without a chat template */
  plain?: boolean;
}

export interface Chat {
  id: string;
  title: string;
  created: number;
  changed: number;
  settings: ChatSettings;
}

export interface Model {
  name: string;
  open: boolean;
  fault: string | null;
  context_length?: number;
  vocab_size?: number;
  num_layers?: number;
  hidden_size?: number;
  num_parameters?: number;
  chats?: boolean;
}

export interface News {
  message: string;
  first: number;
  tokens: Token[];
  status: Status;
  note: string | null;
}

export type MetricRecord = { step: number; event?: string } & Record<string, unknown>;

export interface Run {
  name: string;
  stage: string;
  status: "running" | "finished" | "stopped";
  changed: number;
  step: number;
  loss: number | null;
  checkpoints: number[];
}

export interface RunDetails extends Run {
  recipe: string | null;
  environment: Record<string, unknown>;
  summary: Record<string, unknown>;
  facts: Record<string, unknown>;
  samples: { prompt?: string; text?: string }[];
  notes: string[];
}

export interface RecipeField {
  key: string;
  kind: "number" | "integer" | "text" | "switch" | "choice";
  value: string | number | boolean | null;
  about: string;
  choices: string[];
}

export type FieldValue = string | number | boolean | null;

export interface Launch {
  id: number;
  recipe: string;
  words: string[];
  out: string;
  status: "running" | "stopping" | "finished" | "interrupted" | "failed";
  begun: number;
  said: string;
}

export interface Piece {
  id: number;
  name: string;
  bytes: number;
  special: boolean;
  learned?: boolean;
}

export interface Engine {
  model: string;
  at: number;
  running: number;
  waiting: number;
  blocks_total: number;
  blocks_free: number;
  blocks_cached: number;
  prefix_hits: number;
  preemptions: number;
  tokens_generated: number;
  drafted: number;
  accepted: number;
  cache_bytes: number;
  blocks: string;
  sequences: {
    request: number;
    prompt: number;
    tokens: number;
    most: number;
    computed: number;
    reused: number;
    blocks: number[];
  }[];
}

export interface Changes {
  heads: [number, number][];
  parts: string[];
  steer?: { layer: number; toward: string; away: string; scale: number } | null;
}

/** What the layers made of a token; see `overview` in studio/inside.py. */
export interface Inside {
  place: number;
  token: string;
  lens: { top: [number, string, number][]; own: number; rank: number }[];
  norms: { residual: number[]; mixer: (number | null)[]; ffn: (number | null)[] };
  parts: [string, number][] | null;
  heads: number[];
  switches: number[];
  /** of each layer with experts: those chosen, with their gates, of how many */
  routes: ({ chosen: [number, number][]; count: number } | null)[];
  /** of each recurrent layer: the norm of its state */
  states: (number | null)[];
  /** whether the model's run names a story world, whose law is known */
  world: boolean;
  tokens: string[];
}

/** The generator's law beside the model; see `truth` in studio/world.py. */
export interface Truth {
  /** id, name, log-probability under the generator, under the model */
  top: [number, string, number, number][];
  kl: number;
  entropy: number;
  count: number;
  own: [number | null, number];
  before: number[];
}
