// dom.js: making elements, and making what stands in the document equal to them.
//
// The page is drawn anew at each answer, as a tree that is then laid over the one that
// stands: nodes stay, so that focus, open details and selections do. Text from the box goes
// in as text nodes and nothing else.

// el makes an element: el("p.cause.wide", {id: "x"}, "text", el(…)). Attributes and children
// that are null, undefined or false are left out; true is an attribute without a value.
function el(spec, attributes, ...children) {
  const [tag, ...classes] = spec.split(".");
  return fill(document.createElement(tag), classes, attributes, children);
}

const svgNamespace = "http://www.w3.org/2000/svg";

function svg(spec, attributes, ...children) {
  const [tag, ...classes] = spec.split(".");
  return fill(document.createElementNS(svgNamespace, tag), classes, attributes, children);
}

function fill(node, classes, attributes, children) {
  if (classes.length > 0) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : plain(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
  return node;
}

// plain shows characters that would not be seen, or that turn the direction of what follows.
function plain(value) {
  return String(value).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, "\ufffd");
}

// lay makes the children of a node equal to those given. Children are known again by
// data-key, others by their place.
function lay(node, ...children) {
  const wanted = document.createDocumentFragment();
  wanted.append(...children.flat(Infinity).filter((c) => c instanceof Node));
  layChildren(node, wanted);
}

function layChildren(node, wanted) {
  const byKey = new Map();
  for (const child of node.children) {
    if (child.dataset.key) byKey.set(child.dataset.key, child);
  }
  let at = node.firstChild;
  for (const want of [...wanted.childNodes]) {
    const key = want.dataset?.key;
    const near = at && at.nodeName === want.nodeName && !at.dataset?.key ? at : null;
    const have = key ? byKey.get(key) : near;
    if (!have) {
      node.insertBefore(want, at);
      continue;
    }
    byKey.delete(key);
    if (have === at) at = at.nextSibling;
    else node.insertBefore(have, at);
    if (have.nodeType === Node.TEXT_NODE) {
      if (have.data !== want.data) have.data = want.data;
    } else {
      layAttributes(have, want);
      layChildren(have, want);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// What the reader has changed by hand stays.
const readersOwn = new Set(["open"]);

function layAttributes(node, want) {
  for (const { name } of [...node.attributes]) {
    if (!want.hasAttribute(name) && !readersOwn.has(name)) node.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
}

const byId = (id) => document.getElementById(id);
