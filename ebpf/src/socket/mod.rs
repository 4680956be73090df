//! A socket's story, in order: [`translate`] on the way out, with the choice made over [`tables`];
//! [`record`] what was dialled; [`restore`] it on the way back; [`guard`] what leaves.

pub mod guard;
pub mod record;
pub mod restore;
pub mod tables;
pub mod translate;
