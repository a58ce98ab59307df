// The site of the documentation: `npm run docs` serves it, `npm run docs:build` builds it into docs/.vitepress/dist.
import { defineConfig } from 'vitepress'
import { breakLongCodes, homepage, linkToRepository, mermaidFences, slugify } from './markdown.js'
import { writeLlmsTexts } from './llms.js'
import { apiSidebar, sidebar } from './navigation.js'
import { miniSearch } from './search.js'

/** Returns the first page of a section of the navigation. */
const firstOf = (section: string): string => sidebar.find(({ text }) => text === section)?.items?.[0]?.link ?? '/'

/** The address of the site, if it is known: it may be below a path, and only then there is a sitemap. */
const site = process.env['DOCS_URL'] === undefined ? undefined : new URL(process.env['DOCS_URL'].replace(/\/?$/, '/'))
const base = site?.pathname ?? '/'

export default defineConfig({
  title: 'fastify-redis-suite',
  description: 'Fastify 5 plugins on Redis: cache, sessions, rate limits, events, locks, idempotency, health, metrics',
  lang: 'en',
  base,
  cleanUrls: true,
  head: [['link', { rel: 'icon', type: 'image/svg+xml', href: `${base}logo.svg` }]],
  ...site !== undefined && { sitemap: { hostname: site.href } },
  markdown: {
    anchor: { slugify },
    languageAlias: { conf: 'ini' },
    config: md => md.use(linkToRepository).use(mermaidFences).use(breakLongCodes)
  },
  // Two parts are larger than the limit of Vite's warning: mermaid, which pages with a diagram load, and the index of
  // the search, which the search loads.
  vite: { build: { chunkSizeWarningLimit: 3000 } },
  themeConfig: {
    logo: '/logo.svg',
    nav: [
      { text: 'Why', link: '/why' },
      { text: 'Guides', link: '/guides/', activeMatch: '^/guides/' },
      { text: 'Plugins', link: firstOf('Plugins'), activeMatch: '^/plugins/' },
      { text: 'Operations', link: firstOf('Operations'), activeMatch: '^/operations/' },
      { text: 'API', link: '/api/', activeMatch: '^/api/' },
      {
        text: 'Help',
        items: [
          { text: 'Troubleshooting', link: '/troubleshooting' },
          { text: 'Errors by code', link: '/errors' },
          { text: 'Glossary', link: '/glossary' },
          { text: 'Changelog', link: '/changelog' }
        ]
      }
    ],
    sidebar: { '/': sidebar, '/api/': apiSidebar },
    outline: [2, 3],
    search: { provider: 'local', options: { miniSearch } },
    socialLinks: [{ icon: 'github', link: homepage }],
    editLink: { pattern: `${homepage}/edit/main/docs/:path`, text: 'Edit this page' },
    docFooter: { prev: 'Previous', next: 'Next' },
    externalLinkIcon: true
  },
  buildEnd: ({ srcDir, outDir }) => writeLlmsTexts(srcDir, outDir, site?.href ?? '/')
})
