import { invalidOptionError, unknownOptionError } from '../../shared/plugin/errors.js'
import { refuseOption } from '../../shared/plugin/option-table.js'
import type { RouteRateLimitOptions } from './types.js'

/** The names of the fields to send; undefined for one that is turned off. */
interface FieldNames {
  limit: string | undefined
  remaining: string | undefined
  reset: string | undefined
  retryAfter: string | undefined
  policy: string | undefined
  state: string | undefined
}

export interface HeaderNames {
  passed: FieldNames
  refused: FieldNames
}

export function resolveHeaders (given: RouteRateLimitOptions, enableDraftSpec: boolean): HeaderNames {
  const prefix = enableDraftSpec ? 'ratelimit-' : 'x-ratelimit-'
  const names: FieldNames = {
    limit: `${prefix}limit`,
    remaining: `${prefix}remaining`,
    reset: `${prefix}reset`,
    retryAfter: 'retry-after',
    policy: 'ratelimit-policy',
    state: 'ratelimit'
  }
  const known = [...new Set([...Object.values(names), 'x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset',
    'ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'])]
  const select = (option: 'addHeaders' | 'addHeadersOnExceeding'): FieldNames => {
    const shown: unknown = given[option] ?? {}
    if (typeof shown !== 'object' || shown === null) {
      return refuseOption('rate-limit', given, option, '{ "header-name": true or false }')
    }
    for (const [name, value] of Object.entries(shown)) {
      if (!known.includes(name)) throw unknownOptionError('rate-limit', name, known, 'header')
      if (typeof value !== 'boolean') {
        throw invalidOptionError('rate-limit', `${option}.${name}`, value, 'true or false')
      }
    }
    const isShown = (name: string | undefined) =>
      name !== undefined && Reflect.get(shown, name) !== false ? name : undefined
    return {
      limit: isShown(names.limit),
      remaining: isShown(names.remaining),
      reset: isShown(names.reset),
      retryAfter: isShown(names.retryAfter),
      policy: isShown(names.policy),
      state: isShown(names.state)
    }
  }
  return { passed: { ...select('addHeadersOnExceeding'), retryAfter: undefined }, refused: select('addHeaders') }
}
