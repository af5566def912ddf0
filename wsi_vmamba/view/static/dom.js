// Makes elements; text is always text, never markup.
export const $ = (id) => document.getElementById(id);

export function make(tag, { text, on, data, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  Object.assign(element.dataset, data);
  for (const [name, handler] of Object.entries(on || {})) element.addEventListener(name, handler);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([id, title]) => make("option", { value: id, text: title })));
  select.value = value;
}

export function throttle(action, wait_ms) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      action();
    }, wait_ms);
  };
}
