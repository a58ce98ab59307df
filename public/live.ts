import type { LiveEvent, Sample, LiveData } from '../demo/live-events.js'

type Kind = LiveData['kind']
type Listener<K extends Kind> = (event: LiveEvent<Extract<LiveData, { kind: K }>>) => void

const RECONNECT_MS = 3000
/** An instance without samples for this long is removed. */
const INSTANCE_TIMEOUT_MS = 3500

/** Receives the events of all instances. */
export class Live {
  readonly #listeners = new Map<Kind, Array<(event: never) => void>>()
  readonly #onState: (isLive: boolean) => void
  /** The latest sample of each instance, with its time of arrival. */
  readonly #samples = new Map<string, { sample: LiveEvent<Sample>, at: number }>()
  #source: EventSource | undefined

  constructor (onState: (isLive: boolean) => void) {
    this.#onState = onState
  }

  on<K extends Kind> (kind: K, listener: Listener<K>): void {
    this.#listeners.set(kind, [...this.#listeners.get(kind) ?? [], listener])
  }

  /** The latest samples of the running instances. */
  get instances (): Array<LiveEvent<Sample>> {
    const now = performance.now()
    for (const [name, { at }] of this.#samples) if (now - at > INSTANCE_TIMEOUT_MS) this.#samples.delete(name)
    return [...this.#samples.values()].map(({ sample }) => sample).sort((a, b) => a.instance.localeCompare(b.instance))
  }

  open (): void {
    const source = new EventSource('/live')
    this.#source = source
    this.on('sample', sample => this.#samples.set(sample.instance, { sample, at: performance.now() }))
    this.#connect(source)
  }

  #connect (source: EventSource): void {
    source.addEventListener('open', () => this.#onState(true))
    source.addEventListener('error', () => {
      this.#onState(false)
      // A browser reconnects by itself, except after an error response.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.#reconnect(), RECONNECT_MS)
    })
    for (const [kind, listeners] of this.#listeners) {
      source.addEventListener(kind, ({ data }: MessageEvent<string>) => {
        const event = JSON.parse(data) as never
        for (const listener of listeners) listener(event)
      })
    }
  }

  #reconnect (): void {
    this.#source?.close()
    this.#source = new EventSource('/live')
    this.#connect(this.#source)
  }
}
