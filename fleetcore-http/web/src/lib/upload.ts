import { ApiError } from './api/client';
import type { Problem } from './api/types';

/** PUTs a file with progress; XMLHttpRequest, as `fetch` tells none for uploads. */
export function uploadFile(
  url: string,
  file: Blob,
  onProgress: (sent: number) => void,
): { done: Promise<void>; stop: () => void } {
  const request = new XMLHttpRequest();
  const done = new Promise<void>((resolve, reject) => {
    const failed = (title: string, code: string) =>
      reject(new ApiError({ title, status: request.status, code }));
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onerror = () => failed('The upload broke off: the server does not answer', 'unreachable');
    request.onabort = () => failed('The upload was stopped; the file on the target is unchanged', 'cancelled');
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) return resolve();
      try {
        reject(new ApiError(JSON.parse(request.responseText) as Problem));
      } catch {
        failed(`The upload was refused (HTTP ${request.status})`, 'unknown');
      }
    };
  });
  request.open('PUT', url);
  request.setRequestHeader('content-type', 'application/octet-stream');
  request.send(file);
  return { done, stop: () => request.abort() };
}
