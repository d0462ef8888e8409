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

/** A file to upload and where, below the folder shown. */
export interface Dropped {
  file: File;
  path: string;
}

/** What was dropped, folders with all in them. Reads the entries at once: they are gone after the event. */
export async function dropped(transfer: DataTransfer): Promise<Dropped[]> {
  const entries = [...transfer.items].map((it) => it.webkitGetAsEntry?.());
  const files = [...transfer.files];
  if (!entries.some((it) => it?.isDirectory)) return files.map((file) => ({ file, path: file.name }));
  const found: Dropped[] = [];
  for (const entry of entries) if (entry) await walk(entry, '', found);
  return found;
}

async function walk(entry: FileSystemEntry, parent: string, found: Dropped[]): Promise<void> {
  const path = parent ? `${parent}/${entry.name}` : entry.name;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.push({ file, path });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    // It answers in parts; an empty one is the end.
    const part = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (part.length === 0) return;
    for (const it of part) await walk(it, path, found);
  }
}
