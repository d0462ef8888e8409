/** A history router: the server answers unknown paths with index.html. */

/** Set by the shell; asked before leaving nothing, only told after. */
let path = $state(location.pathname);
let search = $state(location.search);

addEventListener('popstate', () => {
  path = location.pathname;
  search = location.search;
});

export const route = {
  get path(): string {
    return path;
  },
  /** First segment, the page: `machines` when there is none. */
  get page(): string {
    return path.split('/')[1] || 'machines';
  },
  /** Decoded second segment, the thing shown, if any. */
  get id(): string | undefined {
    const segment = path.split('/')[2];
    if (!segment) return undefined;
    try {
      return decodeURIComponent(segment);
    } catch {
      return segment;
    }
  },
  get query(): URLSearchParams {
    return new URLSearchParams(search);
  },
  get full(): string {
    return path + search;
  },
};

export function go(to: string, replace = false): void {
  if (to === path + search) return;
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  path = location.pathname;
  search = location.search;
}

/** Handles clicks on plain same-origin links; put it on the document. */
export function onLinkClick(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element).closest?.('a');
  if (!link || link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
  if (link.pathname.startsWith('/api/')) return;
  event.preventDefault();
  go(link.pathname + link.search);
}
