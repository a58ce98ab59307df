import { colour, onThemeChange, prefersStillness } from './theme.js'

const SPAN_MS = 30_000
/** The time that one bar covers. */
const BAR_MS = 250
const STILL_MS = 500
const FRAME_MS = 33
const TOP = 16
const BOTTOM = 16
/** The position of the base line, as a share of the height. */
const MIDDLE = 0.58
/** The distance of bars from the edges. */
const MARGIN = 2
const FONT = '11px system-ui, sans-serif'

interface Decision {
  at: number
  allowed: boolean
}

/** Draws decisions over time: allowed ones above the line, refused ones below it, and the current window over them. */
export class Strip {
  readonly #canvas: HTMLCanvasElement
  readonly #onWindow: (remaining: number, nextSlotMs: number) => void
  #decisions: Decision[] = []
  /** The milliseconds by which the demo's clock is ahead of the browser's. */
  #clockOffset = 0
  #drawnAt = 0
  #colours = colours()
  limit = { max: 0, window: 1 }

  /** @param onWindow - called on each draw, with the remaining requests and the time until the next slot */
  constructor (canvas: HTMLCanvasElement, onWindow: (remaining: number, nextSlotMs: number) => void) {
    this.#canvas = canvas
    this.#onWindow = onWindow
    onThemeChange(() => { this.#colours = colours() })
    const frame = (now: number): void => {
      if (now - this.#drawnAt >= (prefersStillness.matches ? STILL_MS : FRAME_MS)) {
        this.#drawnAt = now
        this.#draw()
      }
      requestAnimationFrame(frame)
    }
    requestAnimationFrame(frame)
  }

  add (at: number, allowed: boolean): void {
    this.#clockOffset = at - Date.now()
    this.#decisions.push({ at, allowed })
  }

  #draw (): void {
    const now = Date.now() + this.#clockOffset
    const { max, window } = this.limit
    this.#decisions = this.#decisions.filter(({ at }) => at > now - SPAN_MS)
    const taken = this.#decisions.filter(({ at, allowed }) => allowed && at > now - window)
    if (max > 0) this.#onWindow(Math.max(0, max - taken.length), Math.max(0, (taken[0]?.at ?? 0) + window - now))

    const context = this.#canvas.getContext('2d')
    const { clientWidth: width, clientHeight: height } = this.#canvas
    if (context === null || width === 0) return
    const scale = devicePixelRatio
    if (this.#canvas.width !== Math.round(width * scale) || this.#canvas.height !== Math.round(height * scale)) {
      this.#canvas.width = Math.round(width * scale)
      this.#canvas.height = Math.round(height * scale)
    }
    context.setTransform(scale, 0, 0, scale, 0, 0)
    context.clearRect(0, 0, width, height)
    this.#drawFrame(context, width, height)
    this.#drawBars(context, width, height, now)
    this.#drawWindow(context, width, height, `${taken.length} of ${max} used`)
  }

  #drawFrame (context: CanvasRenderingContext2D, width: number, height: number): void {
    const middle = height * MIDDLE
    context.strokeStyle = this.#colours.line
    context.lineWidth = 1
    context.beginPath()
    for (let ago = 5000; ago < SPAN_MS; ago += 5000) {
      const x = Math.round(width * (1 - ago / SPAN_MS)) + 0.5
      context.moveTo(x, TOP)
      context.lineTo(x, height - BOTTOM)
    }
    context.stroke()
    context.strokeStyle = this.#colours.muted
    context.beginPath()
    context.moveTo(0, Math.round(middle) + 0.5)
    context.lineTo(width, Math.round(middle) + 0.5)
    context.stroke()
    context.fillStyle = this.#colours.muted
    context.font = FONT
    context.textBaseline = 'bottom'
    context.textAlign = 'left'
    context.fillText('30 s ago', 2, height)
    context.textAlign = 'right'
    context.fillText('now', width - 2, height)
  }

  #drawBars (context: CanvasRenderingContext2D, width: number, height: number, now: number): void {
    const bars = new Map<number, { allowed: number, refused: number }>()
    for (const { at, allowed } of this.#decisions) {
      const bar = Math.floor(at / BAR_MS)
      const counts = bars.get(bar) ?? { allowed: 0, refused: 0 }
      counts[allowed ? 'allowed' : 'refused']++
      bars.set(bar, counts)
    }
    const middle = height * MIDDLE
    const barWidth = Math.max(2, width * BAR_MS / SPAN_MS - 1)
    for (const [bar, { allowed, refused }] of bars) {
      const x = width * (1 - (now - bar * BAR_MS) / SPAN_MS)
      // The square root keeps a single request visible beside a hundred.
      const up = (middle - TOP - MARGIN) * Math.min(1, Math.sqrt(allowed / Math.max(1, this.limit.max)))
      const down = (height - BOTTOM - middle - MARGIN) * Math.min(1, Math.sqrt(refused / 100))
      context.fillStyle = this.#colours.accent
      context.fillRect(x, middle - up, barWidth, up)
      context.fillStyle = this.#colours.refused
      context.fillRect(x, middle + 1, barWidth, down)
    }
  }

  #drawWindow (context: CanvasRenderingContext2D, width: number, height: number, text: string): void {
    const from = width * (1 - this.limit.window / SPAN_MS)
    context.fillStyle = this.#colours.soft
    context.fillRect(from, TOP, width - from, height - TOP - BOTTOM)
    context.strokeStyle = this.#colours.text
    context.setLineDash([3, 3])
    context.strokeRect(Math.round(from) + 0.5, TOP + 0.5, width - from - 1, height - TOP - BOTTOM - 1)
    context.setLineDash([])
    context.fillStyle = this.#colours.text
    context.font = FONT
    context.textBaseline = 'top'
    context.textAlign = 'right'
    context.fillText(text, width - 2, 1)
  }
}

function colours () {
  return {
    accent: colour('accent'),
    text: colour('text'),
    muted: colour('muted'),
    line: colour('line'),
    refused: colour('refused'),
    soft: colour('soft')
  }
}
