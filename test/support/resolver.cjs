/**
 * Finds the TypeScript source of the relative `.js` names that ES modules use for one another. Every other name is left
 * to Jest's own resolver, and so is every name used by a package.
 */
'use strict';

/** @typedef {{ basedir: string, defaultResolver: (name: string, options: ResolverOptions) => string }} ResolverOptions */

/**
 * @param {string} name
 * @param {ResolverOptions} options
 * @returns {string}
 */
module.exports = function resolve(name, options) {
  if (/^\.{1,2}\/.*\.js$/.test(name) && !/[\\/]node_modules([\\/]|$)/.test(options.basedir)) {
    try {
      return options.defaultResolver(name.replace(/\.js$/, '.ts'), options);
    } catch {
      // It is a JavaScript file then.
    }
  }
  return options.defaultResolver(name, options);
};
