import type { LiveEvent, Sample, Told } from '../demo/live-events.js'

type Kind = Told['kind']
type Listener<K extends Kind> = (event: LiveEvent<Extract<Told, { kind: K }>>) => void

const AGAIN_MS = 3000
/** An instance that is not heard of for as long is gone. */
const GONE_MS = 3500

/** What the demo tells, of all its instances. */
export class Live {
  readonly #listeners = new Map<Kind, Array<(event: never) => void>>()
  readonly #onState: (isLive: boolean) => void
  /** The latest sample of each instance, with when it came. */
  readonly #samples = new Map<string, { sample: LiveEvent<Sample>, at: number }>()
  #source: EventSource | undefined

  constructor (onState: (isLive: boolean) => void) {
    this.#onState = onState
  }

  on<K extends Kind> (kind: K, listener: Listener<K>): void {
    this.#listeners.set(kind, [...this.#listeners.get(kind) ?? [], listener])
  }

  /** The samples of the instances that are there. */
  get instances (): Array<LiveEvent<Sample>> {
    const now = performance.now()
    for (const [name, { at }] of this.#samples) if (now - at > GONE_MS) this.#samples.delete(name)
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
      // A browser comes back by itself, unless it was given an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.#again(), AGAIN_MS)
    })
    for (const [kind, listeners] of this.#listeners) {
      source.addEventListener(kind, ({ data }: MessageEvent<string>) => {
        const event = JSON.parse(data) as never
        for (const listener of listeners) listener(event)
      })
    }
  }

  #again (): void {
    this.#source?.close()
    this.#source = new EventSource('/live')
    this.#connect(this.#source)
  }
}
