// @ts-check
// The HTTP API for people: what /openapi.json says, with an example to paste for each request.

import { get } from "./api.js";
import { button, element, emptyState, toast } from "./ui.js";

const METHODS = ["get", "post", "put", "delete"];
const SUCCESS = "Successful Response"; // what FastAPI says of every answer
/** @type {Record<string, string>} */
const MEANINGS = {
  200: "done",
  201: "made",
  202: "a job, which goes on in the background",
  422: "the request is not as described here",
};
const DEEPEST = 4; // of nested schemas; what lies below is named only

/** @type {any} the whole document, for what it refers to */
let api;

async function main() {
  const root = /** @type {HTMLElement} */ (document.getElementById("api"));
  const contents = /** @type {HTMLElement} */ (document.getElementById("contents"));
  try {
    api = await get("/openapi.json");
  } catch (/** @type {any} */ error) {
    return root.replaceChildren(
      emptyState(
        "warn",
        "The API could not be read",
        error.message,
        button("Try again", () => location.reload(), { icon: "refresh" }),
      ),
    );
  }
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({
      path,
      method,
      facts: item[method],
      shared: item.parameters ?? [],
    })),
  );
  /** @type {Map<string, typeof operations>} */
  const groups = new Map();
  for (const operation of operations) {
    const name = operation.facts.tags?.[0] ?? groupOf(operation.path);
    groups.set(name, [...(groups.get(name) ?? []), operation]);
  }
  root.replaceChildren(
    element("h1", { text: api.info.title ?? "HTTP API" }),
    element("p", {
      class: "lead",
      text: api.info.description ?? "JSON over HTTP; times are seconds since the first picture.",
    }),
    element(
      "p",
      {},
      "From another machine, or with a token: send ",
      element("code", { text: "Authorization: Bearer TOKEN" }),
      ". An error is ",
      element("code", { text: '{"error": "what to do", "kind": "a word"}' }),
      ".",
    ),
    ...[...groups].map(([name, members]) =>
      element(
        "section",
        { "aria-labelledby": `group-${name}` },
        element("h2", { id: `group-${name}`, text: name }),
        ...members.map(drawOperation),
      ),
    ),
  );
  contents.replaceChildren(
    ...[...groups].map(([name, members]) =>
      element(
        "div",
        {},
        element("p", { class: "group", text: name }),
        element(
          "ul",
          {},
          ...members.map((one) =>
            element(
              "li",
              {},
              element(
                "a",
                { href: `#${anchor(one)}` },
                method(one.method),
                element("span", {}, ...breakable(one.path)),
              ),
            ),
          ),
        ),
      ),
    ),
  );
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

/** @param {string} path the word after /api */
function groupOf(path) {
  const parts = path.split("/").filter(Boolean);
  return parts[0] === "api" ? (parts[1] ?? "api") : "page";
}

/** @param {{method: string, path: string}} operation */
const anchor = ({ method: name, path }) =>
  `${name}-${path.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "")}`;

/** A path that may be broken before each of its parts. @param {string} path @returns {Array<string|Node>} */
const breakable = (path) => path.split(/(?=\/)/).flatMap((part) => [element("wbr"), part]);

/** @param {string} name */
const method = (name) => element("b", { class: `method ${name}`, text: name.toUpperCase() });

/** @param {{path: string, method: string, facts: any, shared: any[]}} operation @returns {HTMLElement} */
function drawOperation(operation) {
  const { path, facts } = operation;
  const id = anchor(operation);
  const parameters = [...operation.shared, ...(facts.parameters ?? [])]
    .map(resolve)
    .filter(({ in: place }) => place !== "cookie" && place !== "header");
  const body = facts.requestBody && resolve(facts.requestBody);
  const example = curl(operation, parameters, body);
  const copy = button(
    "Copy",
    () =>
      void navigator.clipboard.writeText(example).then(
        () => toast("Copied", "good"),
        () => toast("The browser does not allow to copy: select the text"),
      ),
    { class: "quiet" },
  );
  return element(
    "article",
    { class: "card operation", id, "aria-labelledby": `${id}-title` },
    element("h3", { id: `${id}-title` }, method(operation.method), element("code", { text: path })),
    ...paragraphs(facts.description ?? facts.summary),
    parameters.length > 0 && drawParameters(parameters),
    body && drawBody(body),
    element("h4", { text: "Answers" }),
    element(
      "dl",
      { class: "answers" },
      ...Object.entries(facts.responses ?? {}).flatMap(([status, answer]) =>
        drawAnswer(status, resolve(answer)),
      ),
    ),
    element(
      "div",
      { class: "example" },
      element("pre", { tabindex: 0, "aria-label": "Example" }, element("code", { text: example })),
      copy,
    ),
  );
}

/** @param {string} [text] @returns {HTMLElement[]} */
function paragraphs(text = "") {
  return text.split(/\n\s*\n/).map((part) => element("p", { text: part.replace(/\s*\n\s*/g, " ") }));
}

/** @param {any[]} parameters */
function drawParameters(parameters) {
  return element(
    "dl",
    { class: "fields" },
    ...parameters.flatMap((one) =>
      drawField(one.name, resolve(one.schema ?? {}), {
        required: one.required,
        where: one.in,
        about: one.description,
      }),
    ),
  );
}

/** @param {any} body */
function drawBody(body) {
  const [kind, media] = Object.entries(body.content ?? {})[0] ?? ["", {}];
  const schema = resolve(/** @type {any} */ (media).schema ?? {});
  if (kind !== "application/json")
    return element(
      "p",
      {},
      "Body: ",
      element("code", { text: kind || "bytes" }),
      body.description ? `, ${body.description}` : ", the file as it is",
    );
  const main = [schema, ...(schema.anyOf ?? [])].map(resolve).find((one) => one.properties) ?? schema;
  return element(
    "div",
    {},
    element("h4", { text: "Body" }),
    main.description && element("p", { class: "muted", text: main.description }),
    drawSchema(main, 0),
  );
}

/** @param {string} status @param {any} answer @returns {HTMLElement[]} */
function drawAnswer(status, answer) {
  const isStandard = [SUCCESS, "Validation Error", "", undefined].includes(answer.description);
  const said = isStandard ? (MEANINGS[status] ?? "") : answer.description;
  const media = /** @type {any} */ (Object.values(answer.content ?? {})[0]);
  const schema = media?.schema && resolve(media.schema);
  const detail =
    schema?.properties && status < "400"
      ? element("details", {}, element("summary", { text: nameOf(media.schema) }), drawSchema(schema, 0))
      : null;
  return [
    element("dt", {}, element("code", { class: status < "400" ? "ok" : "refused", text: status })),
    element("dd", {}, element("span", { text: said }), detail),
  ];
}

/** @param {any} schema @param {number} depth @returns {HTMLElement} */
function drawSchema(schema, depth) {
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length === 0) return element("p", { class: "muted", text: typeName(schema) });
  return element(
    "dl",
    { class: "fields" },
    ...fields.flatMap(([name, value]) =>
      drawField(name, value, { required: schema.required?.includes(name), depth }),
    ),
  );
}

/**
 * @param {string} name @param {any} given
 * @param {{required?: boolean, where?: string, about?: string, depth?: number}} [more]
 * @returns {HTMLElement[]}
 */
function drawField(name, given, { required, where, about, depth = 0 } = {}) {
  const schema = resolve(given);
  const inner = [schema, ...(schema.anyOf ?? []), schema.items]
    .filter(Boolean)
    .map(resolve)
    .find((one) => one.properties);
  const limits = [
    required ? "required" : "optional",
    where,
    schema.default !== undefined && schema.default !== null && `default ${JSON.stringify(schema.default)}`,
    schema.minimum !== undefined && `from ${schema.minimum}`,
    schema.maximum !== undefined && `to ${schema.maximum}`,
    schema.maxLength !== undefined && `at most ${schema.maxLength} characters`,
    schema.maxItems !== undefined && `at most ${schema.maxItems}`,
  ].filter(Boolean);
  const words = about ?? given.description ?? schema.description;
  return [
    element("dt", {}, element("code", { text: name })),
    element(
      "dd",
      {},
      element("span", { class: "type", text: typeName(given) }),
      element("small", { class: "muted", text: limits.join(", ") }),
      words && element("p", { text: words }),
      inner && depth < DEEPEST && drawSchema(inner, depth + 1),
    ),
  ];
}

/** What a `$ref` refers to. @param {any} value @returns {any} */
function resolve(value) {
  const path = value?.$ref?.split("/").slice(1);
  return path
    ? (path.reduce((/** @type {any} */ at, /** @type {string} */ part) => at?.[part], api) ?? {})
    : value;
}

/** @param {any} schema */
const nameOf = (schema) => schema.$ref?.split("/").pop() ?? "Fields";

/** @param {any} given @returns {string} for example "number or null", "list of string" */
function typeName(given) {
  const schema = resolve(given ?? {});
  if (schema.enum) return schema.enum.map((/** @type {any} */ one) => JSON.stringify(one)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const any = schema.anyOf ?? schema.oneOf;
  if (any) return any.map(typeName).join(" or ");
  if (schema.type === "array") return `list of ${typeName(schema.items ?? {})}`;
  return schema.type ?? schema.title ?? "anything";
}

/** A command to paste. @param {{path: string, method: string}} operation @param {any[]} parameters @param {any} body */
function curl({ path, method: name }, parameters, body) {
  const filled = path.replace(/\{(\w+)[^}]*\}/g, (_, word) => word.toUpperCase());
  const query = parameters
    .filter((one) => one.in === "query" && one.required)
    .map((one) => `${one.name}=${one.name.toUpperCase()}`)
    .join("&");
  const [kind, media] = Object.entries(body?.content ?? {})[0] ?? [];
  const data =
    kind === "application/json"
      ? ` \\\n  -H 'Content-Type: application/json' -d '${JSON.stringify(exampleOf(/** @type {any} */ (media).schema ?? {}, 0))}'`
      : body
        ? " \\\n  -H 'Content-Type: application/octet-stream' --data-binary @FILE"
        : "";
  return `curl ${name === "get" ? "" : `-X ${name.toUpperCase()} `}'${location.origin}${filled}${query ? `?${query}` : ""}'${data}`;
}

/** A value as it may be sent. @param {any} given @param {number} depth @returns {any} */
function exampleOf(given, depth) {
  const schema = resolve(given);
  if (schema.example !== undefined || schema.examples?.length > 0)
    return schema.example ?? schema.examples[0];
  if (schema.anyOf) return exampleOf(schema.anyOf[0], depth);
  if (schema.enum) return schema.enum[0];
  if (schema.properties && depth < DEEPEST) {
    const wanted = Object.entries(schema.properties).filter(
      ([name]) => !schema.required || schema.required.includes(name),
    );
    return Object.fromEntries(wanted.map(([name, value]) => [name, exampleOf(value, depth + 1)]));
  }
  const simple = {
    array: () => [exampleOf(schema.items ?? {}, depth + 1)],
    number: () => schema.minimum ?? 1.5,
    integer: () => schema.minimum ?? 1,
    boolean: () => true,
    object: () => ({}),
    null: () => null,
  };
  return (simple[/** @type {keyof typeof simple} */ (schema.type)] ?? (() => schema.default ?? "…"))();
}

document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("api")?.focus();
});
void main();
