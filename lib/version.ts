/** The version that clients announce to the broker; a test holds it to package.json's. */
export const VERSION = '0.1.0';
