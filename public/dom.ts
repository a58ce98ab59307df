/** The element of that id and kind, which the document has. */
export function find<E extends HTMLElement> (id: string, kind: new () => E): E {
  const element = document.getElementById(id)
  if (element instanceof kind) return element
  throw new Error(`the document has no #${id}`)
}

/** Writes it where it is not there already, so that nothing is told or drawn for nothing. */
export function write (id: string, text: string): void {
  const element = find(id, HTMLElement)
  if (element.textContent !== text) element.textContent = text
}

export function show (id: string, isShown: boolean): void {
  find(id, HTMLElement).hidden = !isShown
}

export function make (tag: string, { text, className, title }: { text?: string, className?: string, title?: string } = {}, ...children: HTMLElement[]): HTMLElement {
  const element = document.createElement(tag)
  if (text !== undefined) element.textContent = text
  if (className !== undefined) element.className = className
  if (title !== undefined) element.title = title
  element.append(...children)
  return element
}

const ANNOUNCE_MS = 2000
let waiting = ''
let timer: ReturnType<typeof setTimeout> | undefined

/** For those who hear the page: the latest only, and not all the time. */
export function announce (text: string): void {
  waiting = text
  timer ??= setTimeout(() => {
    timer = undefined
    write('announcer', waiting)
  }, ANNOUNCE_MS)
}

/** A button that goes on until it is pressed again. */
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

/** A button that is not pressed again before its work is done. */
export function onPress (id: string, work: () => Promise<void>): void {
  const button = find(id, HTMLButtonElement)
  button.addEventListener('click', () => {
    // Not `disabled`, which would take the focus away.
    if (button.getAttribute('aria-disabled') === 'true') return
    button.setAttribute('aria-disabled', 'true')
    work().catch((error: unknown) => announce(error instanceof Error ? error.message : String(error)))
      .finally(() => button.removeAttribute('aria-disabled'))
  })
}
