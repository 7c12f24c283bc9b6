# Three servers on three hosts. The token goes through a variable, so it is also in Terraform's state: keep that as secret as the token.
#
#   TF_VAR_token=$(muster token new) terraform apply
terraform {
  required_version = ">= 1.5"
  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = "~> 3.0"
    }
  }
}

variable "token" {
  description = "The output of muster token new"
  type        = string
  sensitive   = true
  validation {
    condition     = length(var.token) >= 16
    error_message = "The token has at least 16 characters: muster token new."
  }
}

variable "image" {
  description = "Name of an image that carries muster and its unit"
  type        = string
}

variable "flavor" {
  type = string
}

variable "network" {
  description = "Id of a network with the addresses 10.0.0.0/24"
  type        = string
}

variable "security_groups" {
  type = list(string)
}

variable "founding" {
  description = "auto for the first apply; never from then on"
  type        = string
  default     = "auto"
}

locals {
  example = file("${path.module}/user-data.yaml")
  founded = replace(local.example, "servers = 3", "servers = 3\n      founding = \"${var.founding}\"")
}

resource "openstack_compute_servergroup_v2" "muster" {
  name     = "muster"
  policies = ["anti-affinity"]
}

resource "openstack_compute_instance_v2" "muster" {
  count           = 3
  name            = "muster-${count.index + 1}"
  image_name      = var.image
  flavor_name     = var.flavor
  security_groups = var.security_groups
  # The user-data comes by a drive and not only by the metadata service.
  config_drive = true
  user_data    = replace(local.founded, "<replace this line: the output of muster token new>", var.token)
  network {
    uuid        = var.network
    fixed_ip_v4 = "10.0.0.1${count.index + 1}"
  }
  scheduler_hints {
    group = openstack_compute_servergroup_v2.muster.id
  }
  # A server that runs is not replaced because the user-data of new ones changed.
  lifecycle {
    ignore_changes = [user_data]
  }
}
