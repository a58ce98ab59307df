/** Returns the element of an id and kind. @throws if the document has none */
export function find<E extends HTMLElement> (id: string, kind: new () => E): E {
  const element = document.getElementById(id)
  if (element instanceof kind) return element
  throw new Error(`the document has no #${id}`)
}

/** Sets an element's text if it differs, so that the browser announces and draws changes only. */
export function write (id: string, text: string): void {
  const element = find(id, HTMLElement)
  if (element.textContent !== text) element.textContent = text
}

export function show (id: string, isShown: boolean): void {
  find(id, HTMLElement).hidden = !isShown
}

export function make (
  tag: string, { text, className, title }: { text?: string, className?: string, title?: string } = {},
  ...children: HTMLElement[]
): HTMLElement {
  const element = document.createElement(tag)
  if (text !== undefined) element.textContent = text
  if (className !== undefined) element.className = className
  if (title !== undefined) element.title = title
  element.append(...children)
  return element
}

const ANNOUNCE_MS = 2000
let pendingText = ''
let timer: ReturnType<typeof setTimeout> | undefined

/** Announces a text to screen readers: the latest one, at most every two seconds. */
export function announce (text: string): void {
  pendingText = text
  timer ??= setTimeout(() => {
    timer = undefined
    write('announcer', pendingText)
  }, ANNOUNCE_MS)
}

/** Makes a button repeat its work until it is pressed again. */
export function toggle (id: string, everyMs: number, work: () => void): void {
  const button = find(id, HTMLButtonElement)
  let interval: ReturnType<typeof setInterval> | undefined
  button.addEventListener('click', () => {
    clearInterval(interval)
    interval = interval === undefined ? setInterval(() => { if (!document.hidden) work() }, everyMs) : undefined
    button.setAttribute('aria-pressed', String(interval !== undefined))
    if (interval !== undefined) work()
  })
}

/** Calls `work` when a button is pressed, and ignores further presses until it is done. */
export function onPress (id: string, work: () => Promise<void>): void {
  const button = find(id, HTMLButtonElement)
  button.addEventListener('click', () => {
    // Not `disabled`, which would remove the focus.
    if (button.getAttribute('aria-disabled') === 'true') return
    button.setAttribute('aria-disabled', 'true')
    work().catch((error: unknown) => announce(error instanceof Error ? error.message : String(error)))
      .finally(() => button.removeAttribute('aria-disabled'))
  })
}
