# A scale set of three machines. Before the first `apply`, with a vault of yours whose name is also in user-data.yaml:
#
#   muster token new >token && az keyvault secret set --vault-name muster-vault --name muster-token --file token && shred -u token
terraform {
  required_version = ">= 1.5"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.0"
    }
  }
}

# Version 4 asks for the subscription: ARM_SUBSCRIPTION_ID in the environment, or `subscription_id` here.
provider "azurerm" {
  features {}
}

variable "image" {
  description = "Id of an image that carries muster and its unit"
  type        = string
}

variable "resource_group" {
  type = string
}

variable "location" {
  type = string
}

variable "subnet" {
  type = string
}

variable "vault" {
  description = "Id of the Key Vault; it must use role-based access"
  type        = string
}

variable "ssh_key" {
  type = string
}

variable "founding" {
  description = "auto for the first apply; never from then on"
  type        = string
  default     = "auto"
}

resource "azurerm_user_assigned_identity" "muster" {
  name                = "muster"
  resource_group_name = var.resource_group
  location            = var.location
}

resource "azurerm_role_assignment" "token" {
  scope                = "${var.vault}/secrets/muster-token"
  role_definition_name = "Key Vault Secrets User"
  principal_id         = azurerm_user_assigned_identity.muster.principal_id
}

data "azurerm_resource_group" "this" {
  name = var.resource_group
}

# To find the machines of the own scale set, and the largest size that an autoscale setting may give it.
resource "azurerm_role_definition" "discovery" {
  name              = "muster discovery"
  scope             = data.azurerm_resource_group.this.id
  assignable_scopes = [data.azurerm_resource_group.this.id]
  permissions {
    actions = [
      "Microsoft.Compute/virtualMachineScaleSets/networkInterfaces/read",
      "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read",
      "Microsoft.Insights/autoscalesettings/read",
    ]
  }
}

resource "azurerm_role_assignment" "discovery" {
  scope              = data.azurerm_resource_group.this.id
  role_definition_id = azurerm_role_definition.discovery.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.muster.principal_id
}

resource "azurerm_linux_virtual_machine_scale_set" "muster" {
  name                = "muster"
  resource_group_name = var.resource_group
  location            = var.location
  sku                 = "Standard_B2s"
  instances           = 3
  admin_username      = "operator"
  source_image_id     = var.image
  # Custom data is no place for secrets, as Azure itself says: the token is not in it.
  custom_data = base64encode(replace(file("${path.module}/user-data.yaml"), "servers = 3", "servers = 3\n      founding = \"${var.founding}\""))
  # A new model changes no machine by itself; `az vmss update-instances --instance-ids` does, one by one.
  upgrade_mode         = "Manual"
  overprovision        = false
  computer_name_prefix = "muster"

  admin_ssh_key {
    username   = "operator"
    public_key = var.ssh_key
  }
  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.muster.id]
  }
  os_disk {
    caching              = "ReadOnly"
    storage_account_type = "Premium_LRS"
  }
  network_interface {
    name    = "main"
    primary = true
    ip_configuration {
      name      = "main"
      primary   = true
      subnet_id = var.subnet
    }
  }
  # The shortest: nobody acknowledges the notice, so it is the time that each ended machine stays on, to leave the cluster.
  termination_notification {
    enabled = true
    timeout = "PT5M"
  }
}
