import { systemClock } from '../../shared/plugin/clock.js'

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const TIME = '(\\d\\d):(\\d\\d):(\\d\\d)'
const IMF_FIXDATE = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\\d\\d) (\\w{3}) (\\d{4}) ${TIME} GMT$`, 'i')
const RFC_850 = new RegExp(`^(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (\\d\\d)-(\\w{3})-(\\d\\d) ${TIME} GMT$`, 'i')
const ASCTIME = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (\\w{3}) ([ \\d]\\d) ${TIME} (\\d{4})$`, 'i')
const FIFTY_YEARS_MS = 50 * 365.25 * 24 * 3600 * 1000

/**
 * Parses the three forms of an HTTP date, in upper or lower case. Other texts, which `Date.parse` would guess, are no
 * dates.
 *
 * @returns milliseconds since the epoch
 * @see RFC 9110 §5.6.7
 */
export function parseHttpDate (text: string | undefined, now = systemClock.now()): number | undefined {
  if (text === undefined) return undefined
  const imf = IMF_FIXDATE.exec(text)
  if (imf) return timeOf(imf[3], imf[2], imf[1], imf.slice(4))
  const asctime = ASCTIME.exec(text)
  if (asctime) return timeOf(asctime[6], asctime[1], asctime[2], asctime.slice(3, 6))
  const short = RFC_850.exec(text)
  if (short === null) return undefined
  const century = Math.floor(new Date(now).getUTCFullYear() / 100) * 100
  const at = timeOf(String(century + Number(short[3])), short[2], short[1], short.slice(4))
  // A two-digit year more than 50 years ahead is in the past (RFC 9110 §5.6.7).
  return at !== undefined && at > now + FIFTY_YEARS_MS
    ? timeOf(String(century - 100 + Number(short[3])), short[2], short[1], short.slice(4))
    : at
}

function timeOf (year = '', month = '', day = '', [hours, minutes, seconds]: string[] = []): number | undefined {
  const index = MONTHS.indexOf(month.toLowerCase())
  const [d, h, m, s] = [Number(day), Number(hours), Number(minutes), Number(seconds)]
  if (index === -1 || h > 23 || m > 59 || s > 60) return undefined
  // Unlike `Date.UTC`, this accepts years below 100.
  const date = new Date(0)
  date.setUTCFullYear(Number(year), index, d)
  // A day that the month does not have would be one of the next month.
  return date.getUTCDate() === d ? date.setUTCHours(h, m, s) : undefined
}
