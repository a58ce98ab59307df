// The configuration that the routes of the live page share.

/** A limit of its own for the page, so that it does not use up its visitor's limit for the shop. */
export const OWN = { groupId: 'live', max: 1200, timeWindow: '1 minute' }

/** A limit of each route whose requests take seconds, or write. */
export const COSTLY = { max: 120, timeWindow: '1 minute' }

/** Never refused under pressure, which is when the page is needed most. */
export const ALWAYS = { pressureHandler: () => {} }
