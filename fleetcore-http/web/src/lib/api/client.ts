import type { Problem } from './types';

/** A problem document, or as much of one as is known. */
export type Known = Pick<Problem, 'title' | 'status' | 'code'> & Partial<Problem>;

/** A refused or failed request; `code` is the stable code of the problem document. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly problem: Known;

  constructor(problem: Known) {
    super(problem.detail || problem.title);
    this.name = 'ApiError';
    this.status = problem.status;
    this.code = problem.code;
    this.problem = problem;
  }

  /** The name of the refused field, when the server names one. */
  get field(): string | undefined {
    const field = this.problem.context?.field;
    return typeof field === 'string' ? field : undefined;
  }
}

let onUnauthorized: () => void = () => {};
let onPending: (count: number) => void = () => {};
let pending = 0;

/** Called when the server no longer accepts our login. */
export function setUnauthorizedHandler(handler: () => void): void {
  onUnauthorized = handler;
}

/** Called with the number of requests under way whenever it changes. */
export function setPendingHandler(handler: (count: number) => void): void {
  onPending = handler;
}

export type Query = Record<string, string | number | boolean | string[] | null | undefined>;

/** `path` with a query string; empty values are left out, arrays repeat the key. */
export function withQuery(path: string, query: Query = {}): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === '') continue;
    for (const one of Array.isArray(value) ? value : [value]) params.append(key, String(one));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

/** Turns a failed response into an `ApiError`, whatever its body is. */
export async function problemOf(response: Response): Promise<ApiError> {
  const fallback: Known = {
    title: response.statusText || `HTTP ${response.status}`,
    status: response.status,
    code: 'unknown',
  };
  try {
    if (/json/.test(response.headers.get('content-type') ?? '')) {
      return new ApiError({ ...fallback, ...((await response.json()) as Partial<Known>) });
    }
    const text = (await response.text()).trim();
    return new ApiError(text && text.length < 400 ? { ...fallback, detail: text } : fallback);
  } catch {
    return new ApiError(fallback);
  }
}

/** `fetch` that throws `ApiError` for every answer that is not a success. */
export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  onPending(++pending);
  let response: Response;
  try {
    response = await fetch(path, { credentials: 'same-origin', ...init });
  } catch (cause) {
    if (init.signal?.aborted) throw cause;
    throw new ApiError({
      title: 'The server does not answer',
      detail: 'The server does not answer. Check that fleetcore is running and reachable.',
      status: 0,
      code: 'unreachable',
    });
  } finally {
    onPending(--pending);
  }
  if (response.ok) return response;
  if (response.status === 401 && !path.endsWith('/login')) onUnauthorized();
  throw await problemOf(response);
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
  return (await send(withQuery(path, query), { signal: signal ?? null })).json() as Promise<T>;
}

async function withBody<T>(method: string, path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.headers = { 'content-type': 'application/json' };
    init.body = JSON.stringify(body);
  }
  const response = await send(path, init);
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

export const post = <T = void>(path: string, body?: unknown): Promise<T> => withBody<T>('POST', path, body);
export const del = <T = void>(path: string): Promise<T> => withBody<T>('DELETE', path);
export const patch = <T = void>(path: string, body?: unknown): Promise<T> => withBody<T>('PATCH', path, body);
