// Runs in a world of its own in each frame: the page's scripts neither see nor change it.
// `this` is an element where the function is about one.
async function (what, ...args) {
  const BID = 'bid', SEEN = 'browsergym_visibility_ratio', MARK = 'browsergym_set_of_marks';
  const NOTES = ['aria-roledescription', 'aria-description'];
  // Every element in document order, also those in open shadow trees.
  const everything = () => {
    const found = [];
    const walk = (root) => {
      for (const element of root.querySelectorAll('*')) {
        found.push(element);
        if (element.shadowRoot) walk(element.shadowRoot);
      }
    };
    walk(document);
    return found;
  };
  const at = (x, y) => {
    let root = document, last = null, found = null;
    do {
      last = found;
      found = root.elementFromPoint(x, y);
      root = found?.shadowRoot;
    } while (root && found !== last);
    return found;
  };
  const holds = (outer, inner) => {
    for (let node = inner; node; node = node.parentNode ?? node.host) if (node === outer) return true;
    return false;
  };
  const frame = () => new Promise((resolve) => {
    const timer = setTimeout(resolve, 50);
    requestAnimationFrame(() => { clearTimeout(timer); resolve(); });
  });
  // a, b, … z, aA, aB, …
  const letters = (n) => {
    let name = String.fromCharCode(97 + (n % 26));
    if (n < 26) return name;
    n = Math.floor(n / 26) - 1;
    name = name.toUpperCase();
    while (n >= 26) {
      name = String.fromCharCode(65 + (n % 26)) + name;
      n = Math.floor(n / 26) - 1;
    }
    return String.fromCharCode(97 + n) + name;
  };
  const center = (element) => {
    const box = element.getBoundingClientRect();
    return [(box.left + box.right) / 2, (box.top + box.bottom) / 2, (box.right - box.left) * (box.bottom - box.top)];
  };

  const mark = async (parent) => {
    const world = globalThis;
    const first = world.fleetcoreNext === undefined;
    if (first) { world.fleetcoreNext = 0; world.fleetcoreFrames = 0; }
    const known = new Set(), unseen = new Set();
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        entry.target.setAttribute(SEEN, Math.round(entry.intersectionRatio * 100) / 100);
        unseen.delete(entry.target);
      }
    }, { threshold: [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1] });
    const marked = new Set(['input', 'textarea', 'select', 'button', 'a', 'iframe', 'video', 'li', 'td', 'option']);
    // First everything that asks for a layout, then everything that changes one.
    const all = everything().map((element) => {
      const tag = element.tagName.toLowerCase();
      const [x, y, area] = center(element);
      if (area < 20 || x < 0 || y < 0 || x > innerWidth || y > innerHeight) return [element, tag, false];
      const hit = at(x, y);
      const wanted = hit && (hit === element || element.contains(hit))
        && (marked.has(tag) || element.onclick != null || element.hasAttribute('onclick')
          || getComputedStyle(element).cursor === 'pointer');
      return [element, tag, wanted];
    });
    const chosen = new Set(), ups = new Set();
    for (const [element, tag, wanted] of all) {
      element.setAttribute(SEEN, 0);
      unseen.add(element);
      observer.observe(element);
      if (element.value !== undefined) element.setAttribute('value', element.value);
      if (element.checked !== undefined) element.toggleAttribute('checked', element.checked === true);
      let bid = first ? null : element.getAttribute(BID);
      if (bid !== null && known.has(bid)) bid = null;
      if (bid === null) {
        bid = parent + (tag === 'iframe' || tag === 'frame' ? letters(world.fleetcoreFrames++) : world.fleetcoreNext++);
        element.setAttribute(BID, bid);
      }
      known.add(bid);
      for (const note of NOTES) {
        element.setAttribute(note, `browsergym_id_${bid} ${element.getAttribute(note) ?? ''}`);
      }
      element.setAttribute(MARK, '0');
      if (!wanted) continue;
      let up = element.parentElement;
      let inside = false;
      for (let outer = element; outer && !inside; outer = outer.parentElement) inside = ups.has(outer);
      const alone = up && up.tagName.toLowerCase() === 'span' && up.children.length === 1;
      if (inside || (alone && up.getAttribute('role') && chosen.has(up))) continue;
      chosen.add(element);
      element.setAttribute(MARK, '1');
      if (element.matches('button, a, input[type="button"], div[role="button"]')) ups.add(element);
      for (; up; up = up.parentElement) if (chosen.delete(up)) up.setAttribute(MARK, '0');
    }
    const end = performance.now() + 1000;
    while (unseen.size && performance.now() < end) await frame();
    observer.disconnect();
  };

  const unmark = () => {
    for (const element of everything()) {
      for (const note of NOTES) {
        const old = element.getAttribute(note);
        if (old === null) continue;
        const text = old.replace(/^browsergym_id[^\s]*\s/, '');
        if (text) element.setAttribute(note, text); else element.removeAttribute(note);
      }
    }
  };

  const find = (bid) => everything().find((element) => element.getAttribute(BID) === bid) ?? null;

  const focused = () => {
    let root = document, found = null;
    while (root?.activeElement) { found = root.activeElement; root = found.shadowRoot; }
    return found;
  };

  // Waits until it can be acted on; why it cannot, in the end.
  const ready = async (wants, limit) => {
    const end = performance.now() + limit;
    for (;;) {
      const why = await check(wants);
      if (why === null || performance.now() >= end) return why;
      await frame();
    }
  };
  const check = async (wants) => {
    if (!this.isConnected) return 'element is not attached to the DOM';
    const style = getComputedStyle(this);
    let box = this.getBoundingClientRect();
    if (style.visibility !== 'visible' || !box.width || !box.height) return 'element is not visible';
    if (wants.includes('enabled') && (this.matches(':disabled') || this.closest('[aria-disabled="true"]'))) {
      return 'element is not enabled';
    }
    if (!wants.includes('point')) return null;
    this.scrollIntoViewIfNeeded?.(true);
    box = this.getBoundingClientRect();
    await frame();
    const now = this.getBoundingClientRect();
    if (['x', 'y', 'width', 'height'].some((side) => box[side] !== now[side])) return 'element is not stable';
    const [x, y] = center(this);
    const hit = at(x, y);
    if (!hit) return 'element is outside of the viewport';
    const label = hit.closest?.('label');
    if (!holds(this, hit) && !(label && label.control === this)) {
      return `<${hit.tagName.toLowerCase()}> intercepts pointer events`;
    }
    return null;
  };

  const changed = () => {
    this.dispatchEvent(new Event('input', { bubbles: true, composed: true }));
    this.dispatchEvent(new Event('change', { bubbles: true }));
  };

  // 'type' when the text is to be typed over the selection, 'done' when it is there, otherwise why not.
  const fill = (text) => {
    const tag = this.tagName.toLowerCase();
    if (tag === 'input') {
      const type = this.type;
      if (['color', 'date', 'time', 'datetime-local', 'month', 'range', 'week'].includes(type)) {
        this.focus();
        this.value = text.trim();
        if (this.value !== text.trim()) return 'Error: Malformed value';
        changed();
        return 'done';
      }
      if (!['', 'email', 'number', 'password', 'search', 'tel', 'text', 'url'].includes(type)) {
        return `Error: Input of type "${type}" cannot be filled`;
      }
      if (type === 'number' && text.trim() !== '' && Number.isNaN(Number(text))) {
        return 'Error: Cannot type text into input[type=number]';
      }
    } else if (tag !== 'textarea' && !this.isContentEditable) {
      return 'Error: Element is not an <input>, <textarea>, <select> or [contenteditable] and does not have a role '
        + 'allowing [aria-readonly]';
    }
    if (this.readOnly) return 'element is not editable';
    this.focus();
    if (this.isContentEditable) getSelection().selectAllChildren(this); else this.select();
    return 'type';
  };

  // null, or why not.
  const select = (wanted) => {
    if (this.tagName.toLowerCase() !== 'select') return 'Error: Element is not a <select> element';
    if (!this.multiple) wanted = wanted.slice(0, 1);
    const chosen = wanted.map((text) => [...this.options].find((option) =>
      option.value === text || option.label.replace(/\s+/g, ' ').trim() === text.replace(/\s+/g, ' ').trim()));
    if (chosen.some((option) => !option)) return 'did not find some options';
    this.focus();
    if (wanted.length === 0) this.value = undefined;
    for (const option of this.options) option.selected = chosen.includes(option);
    changed();
    return null;
  };

  // The screenshot with numbered boxes, drawn beside the page and not in it.
  const boxes = async (png, marks) => {
    const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
    const canvas = new OffscreenCanvas(image.width, image.height);
    const draw = canvas.getContext('2d');
    draw.drawImage(image, 0, 0);
    draw.font = '12px sans-serif';
    draw.textBaseline = 'middle';
    for (const [bid, x, y, width, height] of marks) {
      draw.setLineDash([4, 8]);
      draw.lineWidth = 2;
      draw.strokeStyle = 'black';
      draw.strokeRect(x, y, width, height);
      draw.setLineDash([]);
      const wide = Math.ceil(draw.measureText(bid).width) + 6, high = 15;
      const top = Math.round(y - high / 2 + 4);
      draw.fillStyle = 'black';
      draw.fillRect(Math.round(x), top, wide, high);
      draw.lineWidth = 1;
      draw.strokeStyle = 'white';
      draw.strokeRect(Math.round(x) + 0.5, top + 0.5, wide - 1, high - 1);
      draw.fillStyle = 'white';
      draw.fillText(bid, Math.round(x) + 3, top + high / 2);
    }
    const drawn = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer());
    let text = '';
    for (let i = 0; i < drawn.length; i += 8192) text += String.fromCharCode(...drawn.subarray(i, i + 8192));
    return btoa(text);
  };

  switch (what) {
    case 'mark': return mark(...args);
    case 'unmark': return unmark();
    case 'find': return find(...args);
    case 'focused': return focused();
    case 'ready': return ready(...args);
    case 'fill': return fill(...args);
    case 'select': return select(...args);
    case 'boxes': return boxes(...args);
    case 'focus': return this.focus();
    case 'frame': return [this.getAttribute(BID), this.getAttribute('sandbox')];
    case 'bid': return this.getAttribute(BID);
    case 'settled': return frame();
  }
}
