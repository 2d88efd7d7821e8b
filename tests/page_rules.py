"""Rules for every page: it fits its window, has names for its controls, and works without a mouse.

Each function returns what breaks a rule, in words; [] is good.
"""

# What a person can act on, in the order of the document.
CONTROLS = """
() => [...document.querySelectorAll(
  "a[href], button, input, select, textarea, summary, video[controls], [tabindex], [role=slider]"
)].filter((e) => e.tabIndex >= 0 && !e.disabled && !e.closest("[inert], dialog:not([open])")
  && e.checkVisibility({checkVisibilityCSS: true}))
"""
DESCRIBE = """
(e) => `${e.tagName.toLowerCase()}${e.id ? "#" + e.id : ""}.${e.getAttribute("class") ?? ""} `
  + (e.getAttribute("aria-label") ?? e.textContent ?? "").trim().slice(0, 40)
"""
WIDER = f"""
() => {{
  const describe = {DESCRIBE}, width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const out = [...document.querySelectorAll("body *")].filter(
    (e) => e.getBoundingClientRect().right > width + 1);
  return [`the page is ${{document.documentElement.scrollWidth}} px wide`,
    ...out.slice(0, 5).map(describe)];
}}
"""
POINTED_AT = f"""
() => {{
  const describe = {DESCRIBE};
  const acts = "a[href], button, input, select, textarea, summary, label, video, canvas,"
    + " [tabindex], [role=slider]";
  return [...document.querySelectorAll("body *")].filter(
    (e) => getComputedStyle(e).cursor === "pointer" && e.checkVisibility() && !e.closest(acts)
  ).map(describe);
}}
"""
# The ratio of WCAG 2.2, 1.4.3, for text on plain colours: what lies on pictures is left out.
FAINT = f"""
() => {{
  const describe = {DESCRIBE};
  const pen = Object.assign(document.createElement("canvas"), {{width: 1, height: 1}})
    .getContext("2d", {{willReadFrequently: true}});
  const rgba = (colour) => {{
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }};
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3]));
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (e) => {{
    const layers = [];
    for (let at = e; at; at = at.parentElement) {{
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") return null;
      const colour = rgba(style.backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }}
    const canvas = rgba("Canvas").slice(0, 3);
    return layers.reverse().reduce((below, top) => over(top, below), canvas);
  }};
  const shown = (e) => e.checkVisibility({{checkOpacity: true, checkVisibilityCSS: true}})
    && !e.closest("[aria-hidden=true], :disabled, [aria-disabled=true], .visually-hidden, video");
  const texts = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {{
    if (walk.currentNode.textContent.trim()) texts.add(walk.currentNode.parentElement);
  }}
  return [...texts].filter(shown).flatMap((e) => {{
    const below = ground(e), style = getComputedStyle(e);
    if (!below) return [];
    const [one, other] = [light(over(rgba(style.color), below)), light(below)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const enough = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    return ratio < enough ? [`${{ratio.toFixed(2)}}: ${{describe(e)}}`] : [];
  }});
}}
"""
NAMED_ROLES = {
    *("button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "switch", "tab"),
    *("slider", "spinbutton", "listbox", "menuitem", "image", "progressbar", "dialog", "meter"),
}
VISIBLE_FOCUS = f"""
() => {{
  const e = document.activeElement, style = getComputedStyle(e);
  if (e === document.body) return null;
  e.dataset.visited = "yes";
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return outlined || style.boxShadow !== "none" || e.tagName === "VIDEO" ? "" : ({DESCRIBE})(e);
}}
"""


def too_wide(page) -> list[str]:
    """What sticks out to the right of the window."""
    return page.evaluate(WIDER)


def too_faint(page) -> list[str]:
    """Text that stands out too little from what is behind it."""
    return page.evaluate(FAINT)


def unnamed(page) -> list[str]:
    """Controls and pictures without a name, as a screen reader is told them by the browser."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"{role} {node['nodeId']}"
        for node in nodes
        if not node.get("ignored")
        and (role := node.get("role", {}).get("value", "")) in NAMED_ROLES
        and not node.get("name", {}).get("value", "").strip()
    ]


def mouse_only(page) -> list[str]:
    """What asks to be clicked on and can't be reached by keyboard."""
    return page.evaluate(POINTED_AT)


def tab_stops_missed(page) -> list[str]:
    """Controls that Tab does not come to, and such as don't show that they have the focus."""
    count = page.evaluate(f"() => ({CONTROLS})().length")
    unseen = set()
    page.evaluate("() => document.activeElement?.blur()")
    for _ in range(2 * count + 30):  # a player has controls of its own
        page.keyboard.press("Tab")
        said = page.evaluate(VISIBLE_FOCUS)
        if said:
            unseen.add(f"no visible focus: {said}")
    missed = page.evaluate(
        f"() => ({CONTROLS})().filter((e) => !e.dataset.visited && e.type !== 'radio')"
        f".map({DESCRIBE})"
    )
    return [*sorted(unseen), *(f"not reached: {name}" for name in missed)]


def headings_skipped(page) -> list[str]:
    """A page has one h1, and no level is left out on the way down."""
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4')]"
        ".filter((e) => e.checkVisibility()).map((e) => Number(e.tagName[1]))"
    )
    skipped = [
        f"h{below} after h{above}"
        for above, below in zip([0, *levels], levels, strict=False)
        if below > above + 1
    ]
    return skipped if levels.count(1) == 1 else [f"{levels.count(1)} headings h1", *skipped]
