// @ts-check
// Metrics of a run: their names, what they mean, and which way is better.

/** @type {Array<{key: string, title: string, about: string, words: (value: number) => string, up: boolean}>} */
export const METRICS = [
  {
    key: "balanced_accuracy",
    title: "Balanced",
    about: "share of clips with the right label, every class counting the same",
    words: (v) => `${(v * 100).toFixed(1)} %`,
    up: true,
  },
  {
    key: "accuracy",
    title: "Accuracy",
    about: "share of clips with the right label",
    words: (v) => `${(v * 100).toFixed(1)} %`,
    up: true,
  },
  {
    key: "auc",
    title: "AUC",
    about: "how often it ranks two clips rightly; guessing gives 0.5",
    words: (v) => v.toFixed(3),
    up: true,
  },
  {
    key: "nll",
    title: "Log loss",
    about: "of its confidence, lower is better",
    words: (v) => v.toFixed(3),
    up: false,
  },
  {
    key: "ece",
    title: "Calibration error",
    about: "confidence against share right, lower is better",
    words: (v) => `${(v * 100).toFixed(1)} %`,
    up: false,
  },
];
