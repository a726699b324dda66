//! What of a repository becomes an image: exactly what its commit says, whatever its names, links, attributes, and
//! whatever the configuration of the user who runs swanci.

mod contexts;
