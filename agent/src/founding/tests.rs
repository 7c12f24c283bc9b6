//! The judgement by cases, and in thousands of seeded histories; controls show that the checks can fail.

mod cases;
mod checker;
mod controls;
mod histories;
mod world;
