/** One event as the wire has it (WHATWG HTML, "Server-sent events"). */
export interface SseFields {
  id?: string | undefined
  event?: string | undefined
  /** JSON, which has no line breaks. */
  data: string
}

export function formatEvent ({ id, event, data }: SseFields): string {
  return `${id === undefined ? '' : `id: ${oneLine(id)}\n`}${event === undefined ? '' : `event: ${oneLine(event)}\n`}data: ${data}\n\n`
}

/** A line break would begin another field; an id with a NUL is ignored by browsers. */
function oneLine (text: string): string {
  return text.replaceAll(/[\r\n\0]+/g, ' ')
}
