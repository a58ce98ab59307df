// The navigation of the site. A test checks that each page of docs/ is in it.
import type { DefaultTheme } from 'vitepress'

export const sidebar: DefaultTheme.SidebarItem[] = [
  {
    text: 'Start',
    items: [
      { text: 'Why', link: '/why' },
      { text: 'Getting started', link: '/getting-started' },
      { text: 'Clients and servers', link: '/clients' }
    ]
  },
  {
    text: 'Guides',
    items: [
      { text: 'All guides', link: '/guides/' },
      { text: 'Protect a login', link: '/guides/login' },
      { text: 'API keys and plans', link: '/guides/api-keys' },
      { text: 'Several tenants', link: '/guides/multi-tenant' },
      { text: 'Pages of logged-in users', link: '/guides/logged-in-pages' },
      { text: 'Behind a CDN', link: '/guides/behind-a-cdn' },
      { text: 'Invalidate from the database', link: '/guides/database-invalidation' },
      { text: 'Scheduled jobs', link: '/guides/scheduled-jobs' },
      { text: 'Payments', link: '/guides/payments' },
      { text: 'Background mails', link: '/guides/background-mails' },
      { text: 'Live dashboards', link: '/guides/dashboards' },
      { text: 'Kubernetes', link: '/guides/kubernetes' },
      { text: 'Observability', link: '/guides/observability' },
      { text: 'Testing your app', link: '/guides/testing-your-app' },
      { text: 'Behind nginx or Cloudflare', link: '/guides/in-front' },
      { text: 'Without Redis', link: '/guides/without-redis' },
      { text: 'Works with', link: '/guides/compositions' }
    ]
  },
  {
    text: 'Plugins',
    items: [
      { text: 'redis', link: '/plugins/redis' },
      { text: 'cache: responses', link: '/plugins/cache' },
      { text: 'cache: data', link: '/plugins/data-cache' },
      { text: 'session', link: '/plugins/session' },
      { text: 'rate-limit', link: '/plugins/rate-limit' },
      { text: 'health', link: '/plugins/health' },
      { text: 'events: pub/sub, SSE', link: '/plugins/events' },
      { text: 'events: streams', link: '/plugins/streams' },
      { text: 'lock', link: '/plugins/lock' },
      { text: 'idempotency', link: '/plugins/idempotency' },
      { text: 'metrics', link: '/plugins/metrics' },
      { text: 'testing', link: '/plugins/testing' }
    ]
  },
  {
    text: 'Redis techniques',
    collapsed: true,
    items: [
      { text: 'All techniques', link: '/techniques/' },
      { text: 'Data types', link: '/techniques/data-types' },
      { text: 'Pipelines, MULTI and Lua', link: '/techniques/pipelines-and-scripts' },
      { text: 'Pub/sub and streams', link: '/techniques/messages' },
      { text: 'Invalidation and TTL', link: '/techniques/invalidation-and-ttl' },
      { text: 'Big keys and memory', link: '/techniques/memory' },
      { text: 'Times and keys', link: '/techniques/ttl-and-keys' },
      { text: 'A GitHub user API, cached', link: '/techniques/github-user' }
    ]
  },
  {
    text: 'Operations',
    collapsed: true,
    items: [
      { text: 'Going to production', link: '/operations/production' },
      { text: 'Monitoring', link: '/operations/monitoring' },
      { text: 'Security', link: '/operations/security' },
      { text: 'Redis settings', link: '/operations/redis-settings' },
      { text: 'Cluster and Sentinel', link: '/operations/cluster-and-sentinel' },
      { text: 'Hosted Redis', link: '/operations/hosted-redis' },
      { text: 'Scaling', link: '/operations/scaling' },
      { text: 'Reliability', link: '/operations/reliability' },
      { text: 'Performance', link: '/operations/performance' }
    ]
  },
  {
    text: 'Migrating from',
    collapsed: true,
    items: [
      { text: '@fastify/rate-limit', link: '/migrating/rate-limit' },
      { text: '@fastify/caching', link: '/migrating/caching' },
      { text: 'connect-redis', link: '/migrating/connect-redis' },
      { text: 'Express', link: '/migrating/express' }
    ]
  },
  {
    text: 'Reference',
    items: [
      { text: 'Troubleshooting', link: '/troubleshooting' },
      { text: 'Errors by code', link: '/errors' },
      { text: 'Glossary', link: '/glossary' },
      { text: 'API', link: '/api/' },
      { text: 'The demo', link: '/demo' },
      { text: 'Changelog', link: '/changelog' }
    ]
  },
  {
    text: 'Internals',
    collapsed: true,
    items: [
      { text: 'Architecture', link: '/internals/architecture' },
      { text: 'The package', link: '/internals/package' },
      { text: 'What the suite patches', link: '/internals/interop' }
    ]
  }
]

/** The subpaths of the package, in the order of the plugins' pages. */
export const MODULES = [
  'redis', 'cache', 'session', 'rate-limit', 'health', 'events', 'lock', 'idempotency', 'metrics', 'testing', 'upstash'
]

/** Beside the pages of the API reference, which TypeDoc writes. */
export const apiSidebar: DefaultTheme.SidebarItem[] = [
  {
    text: 'API reference',
    items: [
      { text: 'Overview', link: '/api/' },
      ...MODULES.map(name => ({ text: name, link: `/api/${name}` }))
    ]
  },
  {
    text: 'Pages',
    items: [
      { text: 'Getting started', link: '/getting-started' },
      { text: 'Guides', link: '/guides/' },
      { text: 'Plugins', link: '/plugins/redis' }
    ]
  }
]
